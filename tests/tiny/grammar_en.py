"""English templates of the tiny checkpoint: `{slot}` is filled from SLOTS or a generator.

Written form: numbers are words, except clock times ("7:30") and codes of three or more single
digits or capital letters ("4 7 2", "B 7 K"), whose characters are marked with '^' until the
sentence is split in units.
"""

# ruff: noqa: E501, SIM905, C408

import random
from collections.abc import Callable

NAMES = (
    "Katrin Zorvek Milo Brenna Tolvar Quenby Lorick Sefton Vanora Delmar Rastin Felka Gornik Jarvo "
    "Kelsin Lumira Maxen Nadira Orlin Pavik Rosalin Sivan Tamsin Ulrik Verna Wilmot Yorick Zelda "
    "Arvid Bastian Corvin Dorset Elkin Farlow Gilmar Hestia Ivor Jolanda Kramer Landis Merrick "
    "Norvin Ostrava Penrith Ridley Solvek Trellis Umbra Valko Westin Xandor Yelena Zarko Belmont "
    "Calder Drayton Felix Graylin Hollis Morwen"
).split()

# Distractors of a context: terms that no template says.
TERMS = (
    "Bluetooth Aurora Nexus Firefly Sandbox Pinecone Moonbase Roadmap Kubernetes Python Terminal "
    "Silverlake Anthem Galileo Monsoon Quartz Octopus Jupiter Vortex Biscuit"
).split()

SLOTS: dict[str, tuple[str, ...]] = {
    key: tuple(value.split("|"))
    for key, value in {
        "room": "kitchen|bedroom|bathroom|living room|hallway|garage|office|garden|dining room|basement|attic|nursery|studio",
        "device": "lights|lamp|heater|fan|television|radio|speaker|air conditioner|curtains|blinds|projector|coffee machine|dishwasher|washing machine|oven|alarm|camera|printer",
        "appliance": "oven|heater|fan|television|washing machine|dishwasher|robot vacuum|coffee machine|printer|computer|tablet|phone",
        "color": "red|green|blue|yellow|white|purple|orange|pink|brown|black|gray|golden",
        "adj": "big|small|cheap|fresh|warm|heavy|light|beautiful|simple|modern|quiet|large|lovely|clean|strange|broken|soft",
        "level": "low|medium|high|maximum|minimum",
        "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
        "month": "January|February|March|April|May|June|July|August|September|October|November|December",
        "when": "today|tomorrow|tonight|this morning|this afternoon|this evening|next week|on {day}|next {day}|tomorrow morning|tomorrow evening|this weekend|right now|after lunch|before dinner|at {clock}|at {oclock}|on {date}",
        "past": "yesterday|last night|last week|on {day}|this morning|an hour ago|last year|two days ago|a month ago",
        "city": "London|Paris|Berlin|Madrid|Rome|Tokyo|Boston|Chicago|Dublin|Sydney|Toronto|Vienna|Shanghai|Beijing|Seattle|Denver|Oslo|Prague|Lisbon|Houston",
        "place": "airport|station|hospital|library|museum|hotel|bank|school|market|pharmacy|restaurant|bakery|park|beach|theater|post office|supermarket|gas station|stadium|university",
        "vehicle": "train|bus|plane|taxi|ferry|subway|bicycle|car",
        "weather": "sunny|cloudy|rainy|windy|snowy|foggy|stormy|humid|freezing|dry",
        "wx": "rain|snow|wind|fog|sunshine|thunder|frost",
        "food": "bread|milk|cheese|butter|eggs|apples|bananas|oranges|tomatoes|potatoes|rice|chicken|fish|pasta|salad|soup|sugar|salt|pepper|coffee|tea|juice|water|chocolate|cookies|carrots|onions|honey|yogurt|noodles",
        "unit": "bottles|boxes|bags|pounds|cups|slices|packs|kilos|cans|liters",
        "dish": "pasta with tomatoes|chicken soup|fried rice|a green salad|apple pie|grilled fish|beef stew|vegetable curry|a cheese sandwich|scrambled eggs|mushroom risotto|pancakes with honey",
        "thing": "jacket|umbrella|suitcase|book|wallet|laptop|camera|ticket|passport|sweater|backpack|keyboard|watch|guitar|charger|notebook|helmet|blanket|pillow|mirror|table|chair|lamp|bottle|knife|basket",
        "relative": "mother|father|sister|brother|uncle|aunt|wife|husband|daughter|cousin|grandmother|neighbor|friend|boss|teacher|doctor|dentist|lawyer|manager|assistant",
        "person": "my {relative}|{name}|the {relative}|our {job}",
        "job": "driver|engineer|designer|nurse|plumber|gardener|accountant|electrician|director|secretary|customer|client|colleague|team leader",
        "app": "calendar|email|music player|browser|map|calculator|notes|settings|photos|weather app|message center",
        "genre": "jazz|classical music|rock|folk songs|piano music|pop music|country music|hip hop|blues|opera",
        "topic": "budget|schedule|contract|report|proposal|project|design|website|invoice|strategy|presentation|training|survey|security update|release|database|customer feedback|sales figures|travel policy|launch plan",
        "activity": "swimming|running|cooking|dancing|painting|reading|hiking|fishing|shopping|skiing|gardening|camping|singing|cycling|yoga practice",
        "verb": "buy|clean|repair|sell|move|open|check|paint|bring|return|find|order|borrow|pack|replace|wash",
        "meal": "breakfast|lunch|dinner|supper|a snack|a picnic",
        "feeling": "tired|happy|hungry|thirsty|nervous|excited|bored|worried|sleepy|busy|fine|sick|lucky",
        "adv": "quickly|slowly|carefully|quietly|again|together|soon|early|later|immediately|finally|politely",
        "sport": "football|tennis|basketball|baseball|hockey|golf|volleyball|table tennis|chess",
        "animal": "dog|cat|bird|horse|rabbit|turtle|hamster|parrot|cow|duck|elephant|tiger",
        "body": "head|back|shoulder|stomach|knee|ankle|tooth|throat|arm|finger",
        "polite": "please|if you can|when you have time|as soon as possible|thank you",
        "currency": "dollars|pounds|euros",
        "language": "English|French|German|Spanish|Italian|Japanese|Chinese|Russian",
        "subject": "history|physics|chemistry|geography|science|music|mathematics|biology",
        "quest": "Do you know|Can you tell me|Could you explain|Do you remember|Could you tell me",
        "doing": "The {relative} is {ing}|My {relative} was {ing}|They are {ing}|We were {ing}|{name} is {ing}",
        "ing": "waiting|sleeping|talking|working|cooking|walking|laughing|driving|studying|resting|dancing",
    }.items()
}

TEMPLATES = tuple(
    """Turn on the {room} {device}.
Turn off the {room} {device}, please.
Please switch off the {device} in the {room} {when}.
Set the {room} {device} to {num} percent.
Set the temperature in the {room} to {num} degrees.
Make the {room} lamp {color}.
Change the lights in the {room} to {color} and the brightness to {level}.
Is the {device} in the {room} still on?
Open the {room} blinds at {clock}.
Lock the {room} door and turn on the alarm.
Start the {appliance} {when}.
Why is the {appliance} not working?
The {appliance} in the {room} is making a {adj} noise.
Set a timer for {num} minutes.
Set an alarm for {clock} on {day}.
Wake me up at {clock} {daypart}.
Remind me to {verb} the {thing} {when}.
Remind me to call {person} at {clock}.
Add {num} {unit} of {food} to my shopping list.
Put {food}, {food} and {food} on the list.
How much is the {adj} {color} {thing}?
The {thing} costs {price}.
I would like to buy a {color} {thing} for my {relative}.
Do you have this {thing} in {color}?
We need {num} {unit} of {food} and some {food}.
Can I return the {thing} that I bought {past}?
What is the weather like in {city} {when}?
Will it be {weather} in {city} on {day}?
It was {weather} and {weather} {past}.
There will be {wx} in {city} {when}, with {num} degrees.
Take an umbrella, because the {wx} starts at {clock}.
How do I get to the {place}?
The nearest {place} is {num} kilometers from the {place}.
Book a {vehicle} from {city} to {city} on {date}.
The {vehicle} to {city} leaves at {clock} from platform {small}.
Is there a {vehicle} to the {place} {when}?
My flight number is {code}.
The booking code is {code}, and my room number is {digits}.
I lost my {thing} at the {place} {past}.
We are staying in a {adj} hotel near the {place}.
Drive me to the {place}, and then to the {place}.
How long does the {vehicle} take to {city}?
Call {name}.
Call {person} {when}.
Send a message to {name}: I will be {num} minutes late.
Tell {name} that the {topic} is ready.
Text my {relative} that dinner is at {clock}.
Did {name} call me {past}?
Please ask {name} to {verb} the {thing}.
{name} and {name} are coming to {city} {when}.
The phone number of {name} is {phone}.
My number is {phone}.
The code for the door is {digits}.
Please enter {code} to open the {app}.
Open the {app} and show me the {topic}.
Play some {genre} in the {room}.
Play the next song and turn the volume {level}.
Turn the volume up to {num}.
The meeting with {name} starts at {clock}.
Let us move the meeting to {day} at {clock}.
The {topic} meeting is on {date} at {oclock}.
We should discuss the {topic} with the {job} {when}.
Who is responsible for the {topic}?
I sent you the {topic} {past}.
Could you share the {topic} with {person}, {polite}?
The deadline for the {topic} is {date}.
About {num} percent of our customers like the {adj} {topic}.
Next, {name} will present the {topic}.
Good morning, how are you {today}?
I am {feeling}, and my {relative} is {feeling} too.
{doing} in the {room}.
{doing} at the {place} with {person}.
What do you want for {meal}?
I want to cook {dish} for {meal}.
My {relative} likes {activity} and {activity}.
We go {going} every {day} with {person}.
{quest} where the {thing} is?
{quest} when {name} arrives in {city}.
{quest} how many {unit} of {food} we have.
{name} was born on {date}.
Today is {day}, {date}.
It is {clock} in {city} and {clock} in {city}.
Do you play {sport}, or do you prefer {activity}?
Our {animal} is {num} years old and very {feeling}.
The {color} {animal} is sleeping under the {thing}.
My {body} hurts, so I need to see the doctor.
I am learning {language} and {subject} at the university.
How do you say this in {language}?
He speaks {adv} and writes {adv}.
The answer is {num}, not {num}.
{num} plus {num} is {num}.
The score was {num} to {num}.
Thank you for the {adj} {thing}, {name}.
Have you ever been to {city}?
Where is {name}?
Welcome to {name}, the {adj} {place} in {city}.
Install {name} on my {appliance}.
Search for {name} in {city}.
Navigate to {name} by {vehicle}.
Read the last message from {name}.""".splitlines()
)

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
# As a synthesizer should say a letter; I and O are left out of codes, as real ones do.
LETTERS = dict(
    A="ay", B="bee", C="see", D="dee", E="ee", F="eff", G="jee", H="aitch", J="jay", K="kay",
    L="ell", M="em", N="en", P="pee", Q="cue", R="are", S="ess", T="tee", U="you", V="vee",
    W="double you", X="ex", Y="why",
)  # fmt: skip
NUMBER_WORDS = frozenset(
    _ONES + _TENS + _ORDINALS + ["hundred", "thousand", "thirtieth", "o'clock"]
)


def number_words(value: int) -> str:
    """0 … 999 in words: 'twenty-five', 'three hundred and four'."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(value, 100)
    return f"{_ONES[hundreds]} hundred" + (f" and {number_words(rest)}" if rest else "")


def ordinal_words(value: int) -> str:
    """1 … 31 in words: 'third', 'twenty-first'."""
    if value <= 20:
        return _ORDINALS[value - 1]
    return "thirtieth" if value == 30 else f"{_TENS[value // 10 - 2]}-{_ORDINALS[value % 10 - 1]}"


def _number(rng: random.Random) -> str:
    return number_words(rng.randint(2, 99) if rng.random() < 0.85 else rng.randint(100, 999))


def _digits(rng: random.Random, low: int, high: int) -> str:
    return " ".join("^" + rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def _code(rng: random.Random) -> str:
    letters = ["^" + c for c in rng.choices(sorted(LETTERS), k=rng.randint(1, 3))]
    digits = ["^" + c for c in rng.choices("0123456789", k=rng.randint(2, 3))]
    return " ".join(letters + digits if rng.random() < 0.7 else digits + letters)


def _clock(rng: random.Random) -> str:
    minute = rng.randint(1, 59) if rng.random() < 0.5 else 5 * rng.randint(1, 11)
    return f"{rng.randint(1, 12)}:{minute:02d}"


def _price(rng: random.Random) -> str:
    whole = f"{number_words(rng.randint(2, 99))} {rng.choice(SLOTS['currency'])}"
    return whole if rng.random() < 0.5 else f"{whole} and {number_words(rng.randint(2, 99))} cents"


def _date(rng: random.Random) -> str:
    month, day = rng.choice(SLOTS["month"]), ordinal_words(rng.randint(1, 31))
    return f"{month} {day}" if rng.random() < 0.6 else f"the {day} of {month}"


GENERATORS: dict[str, Callable[[random.Random], str]] = {
    "num": _number,
    "small": lambda rng: number_words(rng.randint(1, 12)),
    "oclock": lambda rng: f"{number_words(rng.randint(1, 12))} o'clock",
    "clock": _clock,
    "digits": lambda rng: _digits(rng, 3, 5),
    "phone": lambda rng: _digits(rng, 6, 8),
    "code": _code,
    "price": _price,
    "date": _date,
    "name": lambda rng: rng.choice(NAMES),
    "today": lambda rng: rng.choice(("today", "this morning", "this evening")),
    "daypart": lambda rng: rng.choice(("tomorrow", "in the morning", "on Sunday", "every day")),
    "going": lambda rng: rng.choice(
        ("swimming", "running", "hiking", "fishing", "shopping", "skiing", "camping")
    ),
}

# Words left out of word salad: homophones, and words that espeak joins to their neighbours.
NOT_IN_SALAD = frozenset(
    "a an the of and i two too to for four eight ate right write by buy know no see sea there their here hear our hour"
    " are meet meat week weak read red new one won be bee some sum way weigh would wood".split()
)


def speak_unit(unit: str) -> str:
    """What the synthesizer is given for one unit: '7:05,' → 'seven oh five,'; '^B' → 'bee'."""
    if unit[0] == "^":
        word = LETTERS.get(unit[1]) or _ONES[int(unit[1])]
        return word + unit[2:]
    if ":" in unit and unit[0].isdigit():
        hour, _, rest = unit.partition(":")
        minute = int(rest[:2])
        spoken = number_words(minute) if minute > 9 else f"oh {number_words(minute)}"
        return f"{number_words(int(hour))} {spoken}{rest[2:]}".replace("-", " ")
    return unit.replace("-", " ")
