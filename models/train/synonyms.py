"""Drugs that stand for one another in a note: swapping one for another of its line never changes a label."""

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

SWAPS: dict[str, tuple[str, ...]] = {
    name: tuple(other for other in line.split() if other != name) for line in _CLASSES for name in line.split()
}
