"""The roadside baseline: kind, blocked and status of an incident report, by ordered word lists."""

import re
from typing import Final

from models.train.keywords.rules import clauses, compiled, first, says

_WORDS: Final = compiled(
    {
        "signal_fault": (
            r"(?:traffic |pedestrian |temporary |stop ?)?(?:signals?|lights?|robots?|heads?|semaforo|pelican"
            r"|puffin|toucan)[^.;]{0,45}(?:out|dark|dead|down|off|stuck|fail\w*|fault\w*|flash\w*|broken"
            r"|not working|blank|all.red|no power|on the blink|died|twisted|frozen|unlit|swinging|missing|knocked"
            r"|malfunction\w*|out of (?:order|service))|(?:no|dead|dark|stuck|failed|faulty|broken|flashing"
            r"|malfunction\w*) (?:traffic |pedestrian )?(?:signals?|lights|robots?)|(?:signals?|robots?"
            r"|lights?) (?:fault|failure|outage|malfunction|problem|repair\w*|fixed|restored|back)|(?:level "
            r"|grade |railway )?crossing (?:barriers?|gates?|arms?|lights?)[^.;]{0,30}(?:stuck|down|fail\w*"
            r"|fault\w*|jammed)|barriers? (?:stuck|down|failed|jammed|descended)|gates? stuck|green man|red man"
            r"|stuck on (?:red|green|amber)|all[- ]way stop|4-way stop|four-way stop|points-?man|pointsman"
            r"|sig(?:nal)? (?:out|heads?|flash\w*)|junction is dark"
        ),
        "collision": (
            r"collisions?|collided|collides|crash(?:ed|es)?|rtc|rta|mva|mvc|mvi|rollover|roll-?over|pile-?up"
            r"|rear-?end\w*|head-on|sideswip\w*|fender.?bender|overturn\w*|jackknif\w*|jack-knif\w*|smash(?:ed)?"
            r"|wreck(?:age|ed|s)?|pi accident|accidents?|hit-and-run|hit and run|ran into|slammed|t-?boned?"
            r"|flipped|ploughed into|plowed into|knocked down|struck by|fatal|shunt(?:ed)?|prang|bump(?:ed)?"
            r"|(?:car|lorry|truck|bus|van|bike|pedestrian|cyclist)s? (?:v|vs|versus|hits?|into)\.?|on (?:its"
            r"|their) (?:roof|side)|in(?:to)? the (?:barrier|guardrail|wall|parapet|lamppost|pole|ditch)|struck"
            r"|bang|contact between|clipped|banggaan"
        ),
        "roadworks": (
            r"road ?works?|works?|workers|workmen|crews?|resurfac\w*|re-?pav\w*|paving|pavers?|asphalt\w*|tarmac"
            r"|milling|construction|maintenance|repairs?|repaint\w*|painting|line.?marking|striping|pot-?holes?"
            r"|dig(?:s|ging)?(?: up)?|dug|trench\w*|excavat\w*|utility|sewer|mains? (?:renewal|replacement)"
            r"|contractors?|drain(?:s|age) (?:to be|works?|clean\w*)|bridge joints?|joints?|kerb\w*|renew\w*"
            r"|replac\w*|reconstruction|stop.?go|flag(?:gers?|men)|gas people|cabling|fibre|cable.?lay\w*"
            r"|scaffold\w*|roadway upgrade|upgrad\w*|overlay|chip.?seal|surface dressing|obras|drilling|jetted"
            r"|inspections?|mowing|grass.?cut\w*|verge.?cut\w*|sweep(?:er|ing)|widening|diggers?|road.?roller"
            r"|rollers?|barrels"
        ),
        "flooding": (
            r"flood\w*|under water|underwater|water over|standing water|ponding|puddles?|burst (?:water )?main"
            r"|water ?main|burst pipe|inundat\w*|submerged|overflow\w*|washed (?:out|over)|h2o|banjir|creek|river"
            r"|ford|culvert|drain (?:choked|blocked)|(?:axle|knee|ankle|bumper|hub)[- ]deep|burst (?:its"
            r"|their) banks?|dip pumped|high tide|ditch over|deep water|water (?:is )?(?:up|on|across)|waterlogged"
            r"|storm surge|pumps?|pumped"
        ),
        "weather": (
            r"snow\w*|blizzard|black ice|ice|icy|fog\w*|mist|wind(?:s|y)?|gusts?|gale\w*|hail\w*|freezing|frost\w*"
            r"|dust|sand ?storm|haboob|visibility|whiteout|white-?out|avalanche|storms?|typhoon|cyclone|hurricane"
            r"|tornado|sleet|heat|smog|haze|high-sided|plough\w*|plow(?:s|ed)?|gritt\w*|drift\w*|glare|sun in"
            r"|melting|meteo|met office|shamal|smoke|rain\w*|downpour|monsoon"
        ),
        "debris": (
            r"debris|fallen tree|trees? (?:down|across|fallen|fell|blown)|branch(?:es)?|limb|boulders?|rocks?"
            r"|rock-?(?:fall|slide)|land-?slides?|mud-?slides?|land-?slip|mattress\w*|ladder|pallets?|planks?|tyre"
            r"|tire(?: tread)?|treads?|bumper|spil(?:t|l|ls|led|lage)|shed(?:s)? (?:its|a|load)|lost (?:its )?load"
            r"|load|gravel|diesel|oil|dead (?:\w+ )?(?:deer|dog|cow|animal|horse|moose|raccoon|kangaroo|roo|sheep"
            r"|fox|badger|boar|camel|cat|elk)|carcass\w*|roadkill|lies dead|sofa|couch|fridge|exhaust|timber|logs?"
            r"|hay|bales?|bricks?|sheet|tarp\w*|cardboard|box(?:es)?|glass|nails|chair|wheelie bin|palm frond"
            r"|frond|pole down|wires? down|lumber|plywood|furniture|trampoline|dune|hillside|cargo|uprooted|straw"
            r"|fell off|fallen off|came off|on the road|cones"
        ),
        "breakdown": (
            r"broken.?down|break(?:ing)?.?down(?! lane)|broke down|stalled|stall|conked|disabled vehicle|flat tyre"
            r"|flat tire|puncture\w*|(?:tyre |tire )?blow-?out|burst tyre on|broken (?:vehicle|car)"
            r"|unable to (?:re)?start|blown tyre|blown tire|out of (?:fuel|gas|petrol|diesel)|ran out|engine"
            r"|gearbox|clutch|brakes?|overheat\w*|radiator|steam\w*|hazards?|bonnet|hood up|won't start"
            r"|wouldn't start|won't move|can't move|dead battery|flat battery|jump start|tow(?:ed|ing|s)?"
            r"|tow truck|recovery|rac|aa (?:man|van)|on fire|fire|ablaze|burnt|burning|stranded|stopped (?:car"
            r"|lorry|truck|van|bus)|stationary|wheel (?:off|came off)|axle|prop ?shaft|gave up|seized|starter|gear"
            r"|died|suspension|fuel pump|alternator|mechanic|fitter|limp(?:ed|ing)?|coughed|dying|vehicle fire"
            r"|car fire"
        ),
        "event": (
            r"parades?|procession|march(?:es|ers|ing)?|demo|demonstrat\w*|protest\w*|rally|marathon|half-marathon"
            r"|10k|5k|triathlon|ironman|race|races|cycle race|festival|fiesta|fair|carnival|concert|gig|match"
            r"|final|stadium|game|kick-?off|fireworks|street party|market|motorcade|convoy of tractors"
            r"|tractors protest|pilgrim\w*|funeral|cort[eè]ge|wedding|filming|film(?: crew| shoot)?|shoot|movie"
            r"|circus|visit|vip|pope|president|royal|tour|grand prix|rodeo|celebrat\w*|jubilee|ceremony"
            r"|remembrance|sit-?in|vigil|strikers|torch relay|regatta|ride-out|mela|game day|crowds?|election"
            r"|christmas lights|feast|summit|general assembly|show|expo|runners|cyclists?|spectators|bands?"
        ),
        "congestion": (
            r"congest\w*|traffic jams?|jam(?:s|med)?|queu\w*|tail-?backs?|back-?ups?|backed up|slow(?:ly)?"
            r"|slow(?:ing)? traffic|crawl\w*|heavy traffic|bumper to bumper|nose to tail|gridlock\w*"
            r"|stop[- ]and[- ](?:go|start)|delays?|volume|rush|peak|busy|getaway|macet|spill-?back"
            r"|stationary traffic|standstill|stau|line of cars|bouchon"
        ),
        "closure": (
            r"clos(?:ed|ure|ures|es|ing|e)|shut|shuts|re-?opened|re-?open(?:s|ing)?|open(?:ed)? again|gated"
            r"|barricaded?|cordon\w*|no access|no entry|blocked|off limits|coned|barriers?|out of use"
            r"|winter gates?|pass (?:gate|opens)|no through"
        ),
    }
)
_OTHER: Final = re.compile(
    r"\b(?:cows?|cattle|sheep|horses?|goats?|geese|ducks?|swans?|deer|dogs?|elephants?|bears?|moose|pigs?|flock"
    r"|herd|livestock|monkeys?|fox|boar)\b(?=.{0,60}\b(?:loose|alive|live|wandering|crossing|crossed|grazing"
    r"|standing|sitting|running|walking|on the road|in the road|roaming)\b)|\b(?:sink-?hole|subsid\w*|swallowed"
    r"|bomb|suspicious|suspect (?:package|device)|gas leak|smell of gas|gas (?:alert|main)|police (?:incident"
    r"|operation|check\w*|activity|stop|chase)|checkpoints?|wrong[- ]way|contramano|shots?|shooting|gunman|hostage"
    r"|medical|collapsed|ambulance|heart attack|jumper|bridge (?:lift|opening|swing|raised)|draw-?bridge"
    r"|swing bridge|wild ?fire|bush ?fire|grass fire|house fire|building fire|warehouse fire|pedestrians? on"
    r"|person on|man on|naked|blasting|quarry blast|evacuat\w*|unexploded|ww2|escort|convoy|abnormal load"
    r"|wide load|customs|weigh(?:ing)?|power line)\b",
    re.IGNORECASE,
)

_KINDS: Final = {
    "signal_fault": _WORDS["signal_fault"],
    "collision": _WORDS["collision"],
    "breakdown": _WORDS["breakdown"],
    "other": _OTHER,
    **{kind: _WORDS[kind] for kind in ("debris", "roadworks", "event", "flooding", "weather", "congestion", "closure")},
}
"""The cause first, its consequences (queue, closure) last."""

_STATUS: Final = compiled(
    {
        "cleared": (
            r"(?:now |all |been |has |is |fully |was )?clear(?:ed)?(?: up| away| now| at| by| of)?(?=\W*$)"
            r"|all clear|cleared|re-?opened|reopened|re-?opening complete|back (?:to normal|open|up|on"
            r"|in (?:service|use))|open(?:ed)? again|(?:is|are|now|both ways|road|fully|street|bridge"
            r"|pass) open(?: now| again)?|open now|over now|finished|completed?|dispersed|thinned|melted away"
            r"|moving (?:again|freely|normally)|normal(?: again| speed)?|lifted|gone|removed|taken away"
            r"|towed(?: away| off)?|restored|repaired|fixed|working again|resumed|ended|swept|no (?:delay"
            r"|queue)s?(?: remaining| left)?|opened up|waved (?:on|both)|back at|lights back|receded|given back"
            r"|handed back|signed off|(?:is|are) off the|picked up|collected|melted|done|eased|passed|scraped"
            r"|history|dissolved|yours(?: again)?|go ahead|no further action|street ok|(?:'s|is|are|now|all|works?"
            r"|parade|race|show) over|washed off|rolled away|upright|thank you|obsolete|cancelled|cones in"
            r"|went down|drained|returned|all done|packed up|has passed|recovered|you may move|off you go"
            r"|stood down|drive on|free (?:again|flow\w*)"
        ),
        "planned": (
            r"tomorrow|tonight's|next (?:week|month|monday|tuesday|wednesday|thursday|friday|saturday|sunday"
            r"|spring|summer|year)|will (?:be|close|begin|start|shut|have|take|run|remain|keep|reach|block|pass"
            r"|hold|not|stay|go|come|lose|use|need|reduce|open)\b|'ll be|to be (?:closed|shut|removed|lifted|held"
            r"|done|coned|jetted|resurfaced|repaired|replaced|hauled)|planned|scheduled|forecast|expected"
            r"|advance (?:notice|warning)|upcoming|due (?:on|to|at|tonight|overnight|in|from)|(?:starts?|starting"
            r"|begins?|beginning|commenc\w*|from) (?:on )?(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:this|on"
            r"|every|for|coming) (?:mon|tues|wednes|thurs|fri|satur|sun)day|shall|proposed|going to|warning (?:for"
            r"|of|from)|yellow warning|amber warning|watch from|(?:mon|tues|wednes|thurs|fri|satur"
            r"|sun)day(?: (?:morning|night|evening|afternoon))?(?:,? (?:at )?\d| from| the| \d|'s|$)"
            r"|from \d+ (?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w*|starts? \d|\d+ (?:jan|feb|mar|apr"
            r"|may|june?|july?|aug|sept?|oct|nov|dec)\w*|tmrw|tomorrow|overnight|from \d|school's back"
            r"|in (?:january|february|march|april|june|july|august|september|october|november|december)"
            r"|over the weekend|this weekend|plan(?:s|ning)? to|notice|in the second half|commence|nights? of"
            r"|later (?:today|this)|is to|are to|in (?:a|two|three) (?:weeks?|days?)"
        ),
    }
)
_STILL: Final = re.compile(
    r"\b(?:not (?:been )?(?:yet )?(?:re-?opened|cleared|open|clear|gone|finished|fixed|moved|over)|isn'?t|hasn'?t"
    r"|haven'?t|still|remains? (?:closed|shut|blocked)|awaiting|waiting for|yet to)\b",
    re.IGNORECASE,
)

_SHOULDER: Final = re.compile(
    r"\b(?:(?:hard |soft |right |left |paved |outside |inside |nearside )?shoulder|hard ?strip|emergency (?:lane"
    r"|strip|bay)|breakdown lane|refuge (?:strip|lane|area)|acostamento|vluchtstrook|berm|safety lane"
    r"|stopping lane|pannenstreifen|standstreifen|arc[eé]n|margin|rsh?ldr|shldr|bau|hard sh)\b",
    re.IGNORECASE,
)
_ALL: Final = re.compile(
    r"\b(?:both (?:ways|directions|sides|carriageways|cways|lanes|dirs?)[^.;]{0,25}(?:closed|shut|blocked|stopped"
    r"|at a stand|held|barred)?|(?:closed|shut|blocked)(?: \w+)? (?:both|in both|in all|at both|from both|either"
    r"|between|from|to (?:all|traffic|cars|vehicles))|all (?:\w+ )?lanes (?:are |is |now |still )?(?:closed|shut"
    r"|blocked|stopped|held|obstructed|affected)|(?:full|total|complete)(?:ly)? (?:road )?(?:clos\w+|block\w*|shut"
    r"|stop)|(?:fully|completely|totally) (?:closed|shut|blocked)|(?:road|street|bridge|tunnel|highway|carriageway"
    r"|c/?way|motorway|pass|avenue|ave|rd|st|hwy|ramp|slip(?: road)?|exit|underpass|crossing|route)s? (?:is |are "
    r"|was |will be |now |remains? |still |to be |being )?(?:closed|shut|blocked|impassable|sealed|cut)|impassable"
    r"|unpassable|not passable|no (?:way )?through|no access|no (?:cars|vehicles|traffic|one|entry)|nobody (?:gets"
    r"|drives|passes)|nothing (?:moves|moving|rolls|gets|passes|fits)|no one gets|neither lane|not one lane"
    r"|not a lane|closed until|shut until|closed to|turn(?:ed|ing) (?:back|around|round)|turn around|road closed"
    r"|road clsd|closed|across (?:the|both|all) (?:road|lanes|carriageway)s?|(?:whole|entire) (?:road|width"
    r"|carriageway|street)|traffic (?:stopped|held|is being held)|standstill|full width|off limits|cut off"
    r"|sealed off|gates? (?:shut|down)|(?:full|total) stop)\b",
    re.IGNORECASE,
)
_SOME: Final = re.compile(
    r"\b(?:lanes? ?#?(?:\d|one|two|three|four|closed|blocked|shut|obstructed|occupied|out|gone|down|reduction"
    r"|restriction|drop)|#[1-5]|l[1-4]|(?:left|right|near|far|nearside|offside|inside|outside|outer|inner|middle"
    r"|centre|center|curb|kerb|slow|fast|bus|turn(?:ing)?|exit|passing|hov|curbside|northbound|southbound"
    r"|eastbound|westbound|inbound|outbound|one|1|two|2|three|single|cycle|bike) (?:\w+ )?lanes?|alternat\w*"
    r"|one[- ]way (?:working|traffic|system|at a time)|stop[ /-]?(?:and |/)?go(?: board| man| lights)?"
    r"|single[- ](?:file|lane|line)|contra-?flow|half (?:width|the road|the carriageway|closed|of the road)"
    r"|one (?:side|direction|way) (?:only|closed|shut|at a time)|(?:one|1) (?:lane|side|direction|half)"
    r"|flag(?:gers?|man|men)|shuttle|lanes? (?:\w+ )?(?:closed|blocked|shut|taken)|partially|partly|partial"
    r"|squeeze|taking turns|temporary lights|lane|down to one|(?:nb|sb|eb|wb) (?:closed|shut|blocked)|turn pocket"
    r"|left turn|right turn)\b",
    re.IGNORECASE,
)
_NONE: Final = re.compile(
    r"\b(?:(?:all|both|every|main|through|running|travel|driving|traffic|the|drive) (?:\w+ )?(?:lanes?"
    r"|ways) (?:\w+ )?(?:open|free|running|clear|usable|available|unaffected|moving|dry|fine|live|passable|flowing"
    r"|run)|no lanes? (?:\w+ )?(?:closed|blocked|affected|shut|obstructed|taken|closures?)|(?:road|carriageway"
    r"|lanes?|highway) (?:is |are |remains? |stays? |still |both )*(?:open|clear|free|passable|unaffected|usable"
    r"|dry)|not (?:blocking|in the way|obstructing)|nothing (?:is )?(?:blocked|closed|shut)|lay-?by"
    r"|off the (?:road|carriageway|highway|roadway)|in (?:a|the) (?:field|ditch|car park|forecourt|driveway)"
    r"|no (?:obstruction|closures?|blockage|restriction\w*)|every lane|all lanes|clear of the|well clear|(?:both"
    r"|all) (?:directions )?(?:open|passable|running)|lanes open|sidewalk|pavement only|footpath|footway)\b",
    re.IGNORECASE,
)


def labels(text: str) -> tuple[str, ...]:
    """kind, blocked, status: one label each."""
    pieces = clauses(text)
    status = _status(pieces)
    return _kind(pieces), "none" if status == "cleared" else _blocked(pieces), status


def _kind(pieces: list[str]) -> str:
    return first(_KINDS, pieces, "other")


def _status(pieces: list[str]) -> str:
    if any(_STILL.search(piece) for piece in pieces):
        return "active"
    return first(_STATUS, pieces, "active")


def _blocked(pieces: list[str]) -> str:
    if any(says(_SHOULDER, piece) for piece in pieces):
        return "shoulder"
    if any(says(_ALL, piece) for piece in pieces):
        return "all_lanes"
    if any(_NONE.search(piece) for piece in pieces):
        return "none"
    if any(says(_SOME, piece) for piece in pieces):
        return "some_lanes"
    return "unknown"
