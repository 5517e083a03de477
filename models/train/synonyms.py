"""Drugs that stand for one another in a note: swapping one for another of its line never changes a label."""

import hashlib
from collections.abc import Iterable

from models.lexicon import lexicon

_CLASSES = (
    "bisoprolol atenolol metoprolol carvedilol propranolol nebivolol labetalol nadolol sotalol",
    "diltiazem verapamil amiodarone ivabradine",
    "warfarin acenocoumarol",
    "apixaban rivaroxaban edoxaban dabigatran",
    "enoxaparin dalteparin tinzaparin",
    "eliquis xarelto pradaxa lixiana",
    "morphine oxycodone hydromorphone",
    "codeine dihydrocodeine tramadol tapentadol",
    "oramorph sevredol oxynorm",
    "mst zomorph oxycontin",
    "alfentanil fentanyl sufentanil",
    "azathioprine methotrexate mycophenolate mercaptopurine leflunomide",
    "tacrolimus ciclosporin sirolimus everolimus",
    "infliximab adalimumab vedolizumab ustekinumab tocilizumab rituximab secukinumab etanercept golimumab",
    "humira remicade stelara entyvio cosentyx",
    "carboplatin cisplatin oxaliplatin docetaxel paclitaxel gemcitabine pemetrexed cytarabine capecitabine etoposide",
    "folfox folfiri folfirinox",
    "rchop r-chop abvd beacopp",
    "ceftriaxone cefuroxime co-amoxiclav meropenem ertapenem tazocin piptaz cefepime",
    "doxycycline clarithromycin azithromycin amoxicillin flucloxacillin trimethoprim nitrofurantoin levofloxacin",
    "paracetamol ibuprofen naproxen diclofenac",
    "ramipril amlodipine losartan lisinopril candesartan",
    "atorvastatin simvastatin omeprazole lansoprazole pantoprazole",
)

_SAFE = {
    "antibiotic",
    "antidepressant",
    "antiepileptic",
    "beta blocker",
    "biologic immunosuppressant",
    "blood pressure drug",
    "chemotherapy",
    "diabetes drug",
    "laxative",
    "opioid",
    "statin",
    "stomach drug",
}
"""Classes of the lexicon in which no name matters more than its class: not the anticoagulants, whose dose does."""


def held_out(name: str) -> bool:
    """Names, one in six, that no training text gets: on them it is measured what the lexicon brings."""
    return hashlib.sha256(name.encode()).digest()[0] % 6 == 0


def _swaps(lines: Iterable[Iterable[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        names = {name for name in line if not held_out(name)}
        for name in names:
            found.setdefault(name, set()).update(names - {name})
    return {name: tuple(sorted(others)) for name, others in found.items() if others}


def _of_lexicon() -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for name, kind in lexicon("ward").classes.items():
        if kind in _SAFE and " " not in name:
            classes.setdefault(kind, []).append(name)
    return classes


SWAPS = _swaps([*(line.split() for line in _CLASSES), *_of_lexicon().values()])
