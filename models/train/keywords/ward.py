"""The ward baseline: a label holds where one of its words stands with no negation near it."""

import re
from typing import Final

_WORDS: Final = {
    "hypercapnic_target": (
        r"88 ?(?:%)? ?(?:-|\u2013|to) ?92|scale (?:2|two)|hypercapni\w*|type (?:2|ii|two) (?:resp\w*|rf)|t2rf"
        r"|retainer|retains|co2 retention"
    ),
    "on_oxygen": (
        r"\d+(?:\.\d)? ?l(?:/min|pm|itres?|iters?)?(?: (?:o2|nc|via|by|nasal|specs|oxygen|hudson))+|oxygen"
        r"|nasal (?:specs|cannula\w*|prongs)|on \d+(?:\.\d)? ?l|venturi|hfnc|high[- ]flow|nrb"
        r"|non[- ]rebreathe\w*|hudson|fio2|cpap|bipap|niv|o2"
    ),
    "rate_limiting_drug": (
        r"\w+olol|carvedilol|labetalol|beta[- ]?blockers?|diltiazem|verapamil|digoxin|amiodarone|ivabradine"
        r"|cardizem|lopressor|tenormin|toprol|sotalol|coreg|lanoxin"
    ),
    "low_resting_rate": (
        r"athlet\w*|runner|triathlete|cyclist|rower|resting (?:hr|pulse|heart rate)"
        r"|always (?:been )?(?:in the )?[345]\d"
        r"|(?:hr|pulse|rate)[^.]{0,30}(?:is|are) (?:his|her|their|usual|normal)|benign|longstanding brady\w*"
        r"|known brady\w*"
    ),
    "pacemaker": (r"pacemaker|ppm|icd|crt(?:-[dp])?|pacer|paced|micra|dual chamber|defibrillator"),
    "opioid": (
        r"morphine|oramorph|oxycodone|oxynorm|oxycontin|fentanyl|alfentanil|codeine|tramadol|buprenorphine"
        r"|butrans|hydromorphone|methadone|pca|epidural|tapentadol|pethidine|mst|sevredol|opioids?|opiates?"
        r"|percocet|dilaudid|targinact|remifentanil"
    ),
    "infection_suspected": (
        r"sepsis|septic|infect\w*|pneumonia|uti|urosepsis|cellulitis|lrti|cap|hap|antibiotics?|iv ?abx|abx"
        r"|tazocin|co-?amox\w*|ceftriaxone|meropenem|doxycycline|amoxicillin|flucloxacillin|vancomycin"
        r"|gentamicin|gent|c\.? ?diff\w*|flu|influenza|covid|norovirus|pyelonephritis|osteomyelitis|meningitis"
        r"|cholangitis|abscess|aciclovir|rsv|tamiflu|oseltamivir"
    ),
    "immunosuppressed": (
        r"chemo\w*|neutropeni\w*|neut(?:s|rophils)? ?<? ?0\.\d|transplant|tacrolimus|ciclosporin|mycophenolate"
        r"|azathioprine|methotrexate|infliximab|adalimumab|rituximab|humira|biologic|r-?chop|folfox"
        r"|pred(?:nisolone)? (?:[2-9]0|1\d\d)|immunosup\w*|vedolizumab|tocilizumab|dexamethasone|bmt|sct|cd4"
        r"|carboplatin|cisplatin|docetaxel|methylpred\w*|stelara"
    ),
    "recent_surgery": (
        r"post[- ]?op\w*|pod ?[012]|day [012] (?:post|after)|d[012] post|yesterday\W+s (?:op|operation)"
        r"|theatre|surgery|\w+ectomy|\w+plasty|orif|laparotomy|hemi|lscs|c-?section|caesarean|cabg"
        r"|back from (?:theatre|or)|whipple\W?s?|op note"
    ),
    "bleeding_risk": (
        r"bleed\w*|warfarin|apixaban|rivaroxaban|edoxaban|dabigatran|eliquis|xarelto|heparin|treatment dose"
        r"|therapeutic|anticoag\w*|melaena|melena|haematemesis|epistaxis|nosebleed|haematuria|inr|thinners"
        r"|oozing|doac|clots|transfus\w*|gi bleed"
    ),
    "new_confusion": (
        r"confus\w*|delirium|delirious|drowsy|disorientat\w*|disoriented|muddled|agitated|hallucinat\w*"
        r"|hard to rouse|rousable|gcs 1[0-4]|acvpu c|4at [4-9]|lethargic|somnolent|altered mental"
    ),
    "comfort_care": (
        r"comfort (?:care|only|measures)|end[- ]of[- ]life|eol|hospice|dying|tlc|last (?:days|hours|week)s?"
        r"|syringe driver|not for escalation|no escalation|anticipatory"
    ),
    "pregnant": (
        r"pregnan\w*|\d\d ?/ ?40|\d\d ?(?:wks|weeks)(?: pregnant)?|postnatal|post[- ]?partum|breast ?feeding"
        r"|gestation|antenatal|g\dp\d|lscs|c-?section|caesarean|in labour|fetal|foetal|fundus|baby|trimester"
        r"|delivered"
    ),
    "artefact": (
        r"artefact\w*|artifact\w*|probe|cuff|poor trace|poor pleth|unreliable|not accurate|doubtful"
        r"|re-?site\w*|dislodged|misread\w*|leads? off|fell off|don'?t (?:trust|believe)|recheck"
        r"|repeat(?:ed)? (?:bp|obs)?|disregard|ignore|erroneous"
    ),
}
_LISTS: Final = {label: re.compile(rf"(?<![\w.])(?:{words})(?!\w)", re.IGNORECASE) for label, words in _WORDS.items()}
_CLAUSE: Final = re.compile(r"[.;:!\n]\s|\bbut\b|\bhowever\b")
_NEGATION: Final = re.compile(
    r"\b(?:no|not|nil|non|never|without|denies|denied|stopped|off|held|withheld|refused|declined|neg(?:ative)?|isn'?t"
    r"|wasn'?t|previous\w*|history of|hx|for|if|should|consider|plan\w*"
    r"|mother|father|wife|husband|sister|brother|daughter|son)\b(?:\W+\w+){0,4}\W*$|\?\W*$",
    re.IGNORECASE,
)
_ENDED: Final = re.compile(
    r"^\W*(?:\w+\W+){0,2}(?:stopped|discontinued|withheld|held|ruled out|excluded|neg(?:ative)?|removed|down)\b",
    re.IGNORECASE,
)


def labels(text: str) -> tuple[str, ...]:
    """Labels one of whose words stands in the text with no negation in the five words before or the three after."""
    clauses = _CLAUSE.split(text)
    return tuple(label for label, words in _LISTS.items() if any(_says(words, clause) for clause in clauses))


def _says(words: re.Pattern[str], clause: str) -> bool:
    return any(
        not _NEGATION.search(clause[: found.start()]) and not _ENDED.search(clause[found.end() :])
        for found in words.finditer(clause)
    )
