from flows.doctor import settings_table
from schemas.settings import Settings


def test_the_table_of_settings_shows_no_secret() -> None:
    secret = "hunter2"
    settings = Settings(
        mqtt_password=secret,
        kafka={"sasl.password": secret, "security.protocol": "SASL_SSL"},
        kafka_registry=f"https://reader:{secret}@registry",
    )
    table = settings_table(settings)
    assert secret not in table
    assert "SASL_SSL" in table
    assert "https://...@registry" in table
    assert "file:/run/secrets/mqtt" in settings_table(Settings(mqtt_password="file:/run/secrets/mqtt"))
