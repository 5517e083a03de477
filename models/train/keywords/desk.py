"""The desk baseline: topic, direction and certainty of a headline, by ordered word lists."""

import re
from typing import Final

from models.train.keywords.rules import clauses, compiled, first, says

_TOPICS: Final = compiled(
    {
        "analyst": (
            r"(?:up|down)grad\w*|price targets?|target (?:price|on|to|of|up|down|raised|cut|lifted|trimmed)|pts?"
            r"|analysts?|brokers?|broking|(?:initiat\w*|coverage|starts?) (?:of|on|at|with)|conviction list|(?:to"
            r"|at|on|a|from) '?\"?(?:buy|sell|hold|neutral|overweight|underweight|outperform|underperform"
            r"|equal-?weight)\"?'?|keeps? '?(?:buy|sell|hold)|(?:overweight|underweight|outperform|underperform)"
            r"|rating (?:on|at|kept|cut)|bull|bear|fair value|top picks?|buy[- ]list|research note|securities"
            r"|'(?:buy|sell|hold)'|cuts? .{0,30}estimates|street-high|neutral stays"
        ),
        "guidance": (
            r"guidance|guid(?:e|es|ed|ing)|outlooks?|forecasts?|profit warnings?|targets?|ambitions?"
            r"|(?:now )?(?:sees|expects|anticipates)|expectations|full[- ]year view|fy\d* (?:view|range)|warns"
            r"|next year(?:'s)?|this year's|reaffirms|reiterates|investor day|mid-?term|medium-term"
            r"|plan for 20\d\d|spending plan|second half|view"
        ),
        "earnings": (
            r"earnings|profits?|pre-?tax|results?|eps|revenues?|quarter(?:ly)?|q[1-4]|[1-4]q|half[- ]year|h[12]"
            r"|interims?|net (?:income|loss|profit)|operating (?:income|profit|margin)|turnover|like-for-like\w*"
            r"|ebit(?:da)?|loss(?:es)?|sales|margins?|accounts|broke even|red ink|bookings|figures|earned|beats?"
            r"|bottom line|top line|takings|provisions?"
        ),
        "management": (
            r"ceo|cfo|coo|cto|chief(?: executive| financial| operating)?|chair(?:man|woman|person)?|boss"
            r"|directors?|board(?:room)?|founder|finance (?:chief|director|head)|company secretary|succe(?:ssor"
            r"|ssion|eds?)|resign\w*|steps? down|stepping down|quits?|ousted|appoint\w*|names? .{0,30}(?:head"
            r"|president|chief|boss)|president|reshuffle|management|executive|treasurer|top job|retire\w*|head of"
            r"|poached|dealmaker|deputy"
        ),
        "legal": (
            r"court|judges?|jury|lawsuits?|sues?|sued|suits?|legal|fined?|fines|penalt\w+|probe[sd]?|investigat\w*"
            r"|inquiry|watchdog|regulators?|antitrust|cartel|price-fixing|settle(?:s|d|ment)?|verdict|appeals?"
            r"|damages|class action|patent|injunction|licen[cs]e|ban|banned|prosecutors?|brib\w*|raid(?:s|ed)?"
            r"|subpoena|charges?d? with|guilty|indict\w*|tribunal|arbitrat\w*|sec|doj|fca|plea|tax(?:man)?|law"
            r"|rules|ruling|levy|compliance|fraud|police|permit|brussels"
        ),
        "deal": (
            r"bids?|bidders?|takeovers?|take-private|merge[rsd]*|acqui\w+|buyout|buy-?out|stake|sale of|sale to"
            r"|sells?|sold to|disposal|divest\w*|offers? (?:for|of|price|deadline|period)|possible offer"
            r"|cash offer|contracts?|orders?|suitors?|in talks|talks with|talks|approach(?:ed|es)?|buys|to buy"
            r"|bought by|purchase|joint venture|deal|spin-?off|break-?up|not for sale|for sale|private equity"
            r"|exclusiv\w*|tie-?up|tender|form 8\.3|form 8|holds? \d|rival offer|premium|buyer|block of|walks away"
        ),
        "product": (
            r"trials?|phase (?:[123]|i+)|fda|ema|approv\w*|drug|pill|vaccine|therapy|placebo|launch(?:es|ed)?"
            r"|unveil\w*|prototype|chip|console|phone|headset|app|game|beta|model|range|engine|battery|jet"
            r"|airliner|delays? (?:its|the|launch)|sold out|device|stent|tablet|camera|software|firmware|platform"
            r"|test(?:s|ers)|study|new \w+ (?:range|line|model)|reviewers?|release date|foldable|electric van"
            r"|side effects|perfume|yog(?:h)?urt"
        ),
        "incident": (
            r"strikes?|strikers|walk-?outs?|unions?|fires?|blaze|explosion|explod\w*|recall(?:s|ed|ing)?|outages?"
            r"|down for|breach|hack(?:ers|ed)?|cyber\w*|ransomware|leak(?:s|ed)?|spill|accident|crash(?:es|ed)?"
            r"|derail\w*|collapse[sd]?|flood(?:s|ed)?|quake|earthquake|cyclone|hurricane|wildfire|storm"
            r"|contaminat\w*|killed|dead|injur\w*|miners|trapped|grounded|evacuat\w*|shut(?:s|down)? (?:after|both"
            r"|down)|halts? (?:production|output|work|operations)|stoppage|sabotage|picket|dockers|pipeline"
            r"|blackout|sinks|sank|collision|catching fire|withdrawn"
        ),
        "macro": (
            r"central bank|fed|ecb|boj|boe|rbnz|rba|snb|pboc|interest rates?|rate (?:cut|hike|rise|decision)"
            r"|hikes?|inflation|cpi|ppi|gdp|pmi|payrolls?|jobs|jobless|unemployment|claims|ifo|zew|treasur(?:y"
            r"|ies) yields?|bunds?|gilts?|yields?|crude|brent|wti|opec\+?|barrels|wheat|copper|lithium|aluminium"
            r"|gold|silver|iron ore|cocoa|coffee|tea auctions?|gas prices?|oil|currency|yen|euro|dollar|sterling"
            r"|rand|lira|franc|krone|krona|naira|rupee|peso|yuan|kiwi|tariffs?|exports?|trade (?:data|deal"
            r"|balance)|election|parliament|budget|finance ministry|minister|president|ceasefire|sanctions|drought"
            r"|harvest|futures|retail sales|housing starts|bitcoin|sovereign|stimulus|referendum|government"
        ),
        "capital": (
            r"dividends?|pay-?outs?|buy-?backs?|repurchas\w*|rights issue|share (?:issue|sale|placing)|placing"
            r"|capital (?:raise|increase|raising)|cash call|bonds?|notes|coupon|convertible|refinanc\w*|term loan"
            r"|loan|debt|covenants?|credit rating|rating agency|agency|moody's|fitch|s&p (?:cuts|lifts|affirms)"
            r"|junk|investment[- ]grade|bbb|single b|triple|default|creditors|lenders|special|redeem\w*|redemption"
            r"|maturity|dilut\w*|total voting rights|voting rights|ipo|stock split|issues? \d"
            r"|raises? .{0,20}(?:million|bn|m) (?:in|from|via|of)|grade"
        ),
        "other": (
            r"index|indices|delist\w*|listing|ticker|reshuffle|no news|without (?:news|explanation)|no explanation"
            r"|things to (?:know|watch)|explained|please disregard|misspelled|correction|premium segment"
            r"|staff survey|movers|session|who owns|average volume|exchange"
        ),
    }
)
_ORDER: Final = (
    "other",
    "capital",
    "analyst",
    "guidance",
    "deal",
    "management",
    "product",
    "legal",
    "earnings",
    "incident",
    "macro",
)
"""The particular before the general: a bond, a target or a chief names its topic, a price or a rate may be anyone's."""
_RULES: Final = {label: _TOPICS[label] for label in _ORDER}

_BAD_NEWS: Final = ("legal", "incident")
"""Topics whose news is bad where no word says otherwise."""

_DENIED: Final = re.compile(
    r"\b(?:den(?:y|ies|ied|ying)|denial|rejects? (?:report|rumour|talk|claim|story|a report|suggestion)s?|untrue"
    r"|not true|no truth|false|made up|invent\w*|fabricat\w*|fake|hoax|baseless|groundless|unfounded"
    r"|without foundation|contrary to|refut\w*|rubbish\w*|nonsense|fairy tale|fiction\w*|off the mark"
    r"|wide of the mark|no such|nothing (?:wrong|to (?:it|the))|dismiss\w*|scotch\w*|quash\w*|no (?:plans?"
    r"|intention|decision|talks)|aren't ours|not ours|\"not ours\"|drivel|opposite of the truth|there (?:was"
    r"|is) no|wasn't|never (?:said|agreed|was|held|had|considered|received)|contradict\w*|knocks? down|has(?:n't"
    r"| not) (?:been|received|held|made|changed|brought|moved|sold|agreed|approached)|is(?:n't| not) (?:for sale"
    r"|in talks|planning|considering|leaving|true|being|going|under|about)|never issued|nobody (?:has|at|said)"
    r"|nowhere|has not left|not our|keeps both|clarif\w*|corrects|untouched|insists|wrong|not for sale"
    r"|not cancelled|staying|does(?:n't| not) (?:plan|intend|exist)|rejecting|calls? (?:the )?(?:report|rumour"
    r"|talk|story)s?)\b",
    re.IGNORECASE,
)
_RUMOUR: Final = re.compile(
    r"\b(?:sources?|people (?:familiar|with|who|close|briefed|say)|persons? (?:familiar|with|close|briefed)"
    r"|familiar with|two people|three people|according to (?:people|a person|sources|hedge|market|traders|two"
    r"|three)|said to|is understood|are understood|understood to|believed to|thought to|rumou?r\w*|speculat\w*"
    r"|chatter|gossip|whisper\w*|hear(?:s|ing|d|say)?|reported(?:ly)?|mull(?:s|ing)?|consider(?:s|ing)?|weigh(?:s"
    r"|ing) (?:a|an|up|sale|bid|options)|explor(?:es|ing)|in talks|could|might|may (?:be|cut|guide|sell|have|lose"
    r"|get|raise|soon)|about to|likely to|is likely|set to|poised|nearing|close to|near (?:a )?deal|no comment"
    r"|declin\w* to comment|won't comment|unnamed|unverified|unconfirmed|anonymous|insiders?|grapevine|word (?:is"
    r"|from|has|on)|has it|tip(?:ster|ped)?|reckons?|mutter\w*|hints?|suggests?|leaked|screenshots?|forum|blog"
    r"|blind item|draft|on the cards|guess(?:es)?|alleg\w*|if (?:true|right|confirmed)|talk (?:of|that|is)|buzz"
    r"|eyeing|being lined up|off the record|bankers say|a person|bankers? (?:say|float|guess)|no(?:t| )filing"
    r"|can'?t verify|toying|thinking of|sounds as if|magazine|(?:banker|negotiator|supplier|trader"
    r"|dealer)s? (?:say|said|guess|fear)s?|preparing|officials (?:say|hint)|a mate|someone|somebody|friend"
    r"|is (?:it|the) .{0,40}\?|authenticity)\b|\?$",
    re.IGNORECASE,
)
_WRONGDOING: Final = re.compile(
    r"\b(?:denies|denying|denied|without admitting|admits no) (?:any )?(?:wrongdoing|liability|guilt)\b",
    re.IGNORECASE,
)
_SURE: Final = re.compile(
    r"\bconfirms?(?:ed)?\b(?! or)",
    re.IGNORECASE,
)

_GOOD: Final = re.compile(
    r"\b(?:beat(?:s|ing)?|tops?|topped|ahead|above|exceed\w*|raise[sd]?|raising|lift(?:s|ed|ing)?|hikes?"
    r"|increase[sd]?|up|rise[sn]?|rising|rose|jump(?:s|ed)?|surge[sd]?|soar\w*|climb(?:s|ed)?|gain(?:s|ed)?"
    r"|rall(?:y|ies|ied)|recover\w*|rebound\w*|bounce\w*|record|best|stronger?|strong|boost\w*|wins?|won"
    r"|award(?:ed|s)|upgrade[sd]?|buy|overweight|outperform|premium|approv\w*|clear(?:ed|s)|cleared|overturn\w*"
    r"|dismiss(?:ed|es)|dropped without|throws? out|acquit\w*|higher|grow(?:s|th|ing)|grew|doubl(?:e|es|ed)"
    r"|profit rises|agreed?|agrees|relie[fv]\w*|success\w*|works|meets|resum\w*|restart\w*|back (?:to|in|on|at)"
    r"|special dividend|buy-?back|early|better|good|cheer\w*|welcom\w*|sold out|cools|eases?|saves?|first profit"
    r"|positive|\+\d[\d.]*%?|call(?:ed)? off|ends? strike|rescued|alive|repaid|tops|swings? to (?:a )?profit"
    r"|added to|promotion|blockbuster|popular|injunction|fix(?:es|ed)?|at last|fresh high)\b|\+\d",
    re.IGNORECASE,
)
_BAD: Final = re.compile(
    r"\b(?:miss(?:es|ed)?|below|short of|behind|cut(?:s|ting)?|lower(?:s|ed)?|slash\w*|trim(?:s|med)?|reduce[sd]?"
    r"|down|fall(?:s|en)?|fell|drop(?:s|ped)?|slump\w*|plung\w*|slid(?:e|es)?|sink(?:s)?|sank|tumbl\w*|lose[s]?"
    r"|lost|losing|loss(?:es)?|weak\w*|worst|worse|warn(?:s|ing)?|profit warning|downgrade[sd]?|sell|underweight"
    r"|underperform|fine[sd]|sue[sd]?|lawsuit|probe|investigat\w*|inquiry|raid(?:ed|s)?|guilty|charged|verdict"
    r"|ban(?:s|ned)?|block(?:s|ed)|reject(?:s|ed)?|fail(?:s|ed|ure)?|delay(?:s|ed)?|halt(?:s|ed)?|suspend(?:s|ed)?"
    r"|scrap(?:s|ped)?|cancel\w*|axe[sd]?|withdraw\w*|withdrawn|dilut\w*|default|junk|strike|walk-?out|fire|blaze"
    r"|explosion|recall\w*|outage|breach|hack\w*|leak|spill|crash\w*|killed|dead|contaminat\w*|quits?|resign\w*"
    r"|ousted|exit|leaves|steps? down|walks away|hit by|hurt(?:s)?|doubts?|fear(?:s)?|halve[sd]?|shrink\w*|shrank"
    r"|thin(?:ner)?|slow(?:er|s|ing)?|disappoint\w*|gives? (?:back|up)|abandon\w*|end(?:s)? talks|pull(?:s|ed)"
    r"|overheat\w*|poor|doubled bad|stop(?:s|ped)?|shut(?:s)?|rights issue|cash call|swings? to (?:a )?loss"
    r"|removed|delist\w*|gone|discount|dump\w*|hot(?:ter)?|no explanation|wiped|scandal|fraud|bribery|penalty"
    r"|shortfall|sold off|wrong|blow|collapse[sd]?)\b|(?<![\w.])[-\u2212]\d[\d.]*%",
    re.IGNORECASE,
)
_FLAT: Final = re.compile(
    r"\b(?:unchanged|no change|reaffirm\w*|reiterat\w*|affirm\w*|maintain\w*|keeps?|in line|as expected|stable"
    r"|repeats?|notice of|coverage of|initiat\w*|appoints?|names?|form 8|holdings?|total voting rights"
    r"|transaction in own shares|correction|disregard|timetable|mandates|things to|holds? (?:\d|rates))\b",
    re.IGNORECASE,
)
_TURN: Final = re.compile(
    r"\b(?:but|while|though|although|and yet|despite|even as|offset|however|mixed|other hand|as well as|, also"
    r"|not enough)\b",
    re.IGNORECASE,
)
_SHARES_UP: Final = re.compile(
    r"\b(?:shares?|stock|bonds|it|and) (?:\w+ ){0,2}(?:up|rise|rises|rose|recovers?|rebounds?|bounces?|gains?"
    r"|rally|rallies|jumps?|climbs?|regains?|float|surge)\b|\brelie(?:f|ved)|\+\d|\bwin back|recovers?|bounces?"
    r"|rally\b",
    re.IGNORECASE,
)
_SHARES_DOWN: Final = re.compile(
    r"\b(?:shares?|stock|bonds|it|and|bondholders|fans) (?:\w+ ){0,2}(?:down|falls?|fell|drops?|slips?|slides?"
    r"|sinks?|loses?|gives?|sell|tumbles?|sags?|dim)\b|gives? (?:back|up)|lost (?:its|the) (?:bid )?premium"
    r"|(?<!\w)[-\u2212]\d|\bpremium (?:gone|evaporates|vanishes)\b",
    re.IGNORECASE,
)


def labels(text: str) -> tuple[str, ...]:
    """topic, direction, certainty: one label each."""
    pieces = clauses(text)
    plain = ". ".join(pieces)
    certainty = _certainty(plain)
    topic = first(_RULES, pieces, "other")
    direction = _direction(pieces, plain, certainty)
    if topic in _BAD_NEWS and direction == "neutral" and certainty != "denied" and not _FLAT.search(plain):
        direction = "negative"
    return topic, direction, certainty


def _certainty(plain: str) -> str:
    told = _WRONGDOING.sub("", plain)
    if _SURE.search(told):
        return "confirmed"
    if _DENIED.search(told):
        return "denied"
    return "rumour" if _RUMOUR.search(told) else "confirmed"


def _direction(pieces: list[str], plain: str, certainty: str) -> str:
    """The sign of the words; of a denial only what the price does, for its other words are the denied report's."""
    if certainty == "denied":
        up, down = bool(_SHARES_UP.search(plain)), bool(_SHARES_DOWN.search(plain))
        return _sign(up, down, both="mixed")
    up = any(says(_GOOD, piece) for piece in pieces)
    down = any(says(_BAD, piece) for piece in pieces)
    if up != down and _FLAT.search(plain) and not _TURN.search(plain):
        return "neutral"
    lead = _sign(says(_GOOD, pieces[0]), says(_BAD, pieces[0]), both="mixed") if pieces else "neutral"
    return _sign(up, down, both="mixed" if _TURN.search(plain) else lead)


def _sign(up: bool, down: bool, both: str) -> str:
    if up and down:
        return both
    return "positive" if up else "negative" if down else "neutral"
