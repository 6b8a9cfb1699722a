"""Words that the generated tasks are made of."""

from __future__ import annotations

WORDS = (
    "apple", "bread", "chair", "dance", "eagle", "flame", "grape", "house", "island", "jungle",
    "kettle", "lemon", "market", "needle", "orange", "pencil", "quartz", "river", "silver",
    "table", "umbrella", "violin", "window", "yellow", "zebra", "anchor", "basket", "candle",
    "donkey", "engine", "feather", "garden", "hammer", "insect", "jacket", "kitten", "ladder",
    "mirror", "napkin", "oyster", "pepper", "rabbit", "saddle", "ticket", "turtle", "velvet",
    "wagon", "blossom", "cabinet", "diamond", "elephant", "fountain", "giraffe", "harvest",
    "journey", "kingdom", "lantern", "mountain", "notebook", "pyramid", "quarter", "rainbow",
    "sandwich", "triangle", "vineyard", "workshop",
)  # fmt: skip
NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Kate",
    "Liam", "Mia", "Noah",
)  # fmt: skip
THINGS = (
    "apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps", "stickers",
    "tickets",
)  # fmt: skip
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
    "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo",
    "Greece": "Athens", "Portugal": "Lisbon", "Poland": "Warsaw", "Austria": "Vienna",
    "Sweden": "Stockholm", "Norway": "Oslo", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Hungary": "Budapest", "Canada": "Ottawa", "Australia": "Canberra",
    "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima",
    "Cuba": "Havana", "Kenya": "Nairobi", "Ethiopia": "Addis Ababa", "Ghana": "Accra",
    "Morocco": "Rabat", "Turkey": "Ankara", "Iran": "Tehran", "Iraq": "Baghdad",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Nepal": "Kathmandu", "Mongolia": "Ulaanbaatar",
    "Kazakhstan": "Astana", "Bulgaria": "Sofia", "Romania": "Bucharest", "Iceland": "Reykjavik",
    "Burkina Faso": "Ouagadougou", "Bhutan": "Thimphu", "Suriname": "Paramaribo",
    "Madagascar": "Antananarivo", "Slovenia": "Ljubljana", "Latvia": "Riga",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night",
    "open": "closed", "fast": "slow", "old": "new", "happy": "sad", "hard": "soft",
    "early": "late", "full": "empty", "rich": "poor", "loud": "quiet", "wet": "dry",
    "strong": "weak", "deep": "shallow", "ancient": "modern", "generous": "stingy",
    "scarce": "abundant", "arrival": "departure", "victory": "defeat", "include": "exclude",
    "expand": "contract", "maximum": "minimum", "guilty": "innocent", "temporary": "permanent",
}  # fmt: skip
CYCLES = (
    (
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    ),
    (
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December",
    ),
)  # fmt: skip
UNITS = (
    ("minutes", "hours", 60), ("seconds", "minutes", 60), ("hours", "days", 24),
    ("days", "weeks", 7), ("months", "years", 12), ("centimetres", "metres", 100),
    ("metres", "kilometres", 1000), ("grams", "kilograms", 1000), ("inches", "feet", 12),
)  # fmt: skip
FACTS = {
    "What colour is grass?": "green", "What colour is snow?": "white",
    "What colour is the sky on a clear day?": "blue", "What colour is a ripe banana?": "yellow",
    "Which animal barks?": "dog", "Which animal says meow?": "cat",
    "Which animal gives us milk on farms?": "cow", "Which star gives the Earth light?": "sun",
    "Which planet do we live on?": "earth", "Which season comes after winter?": "spring",
    "Which language do people speak in Spain?": "spanish", "What do bees make?": "honey",
    "Which meal do people eat in the morning?": "breakfast", "What is frozen water called?": "ice",
    "Which ocean is the largest?": "pacific", "Which planet is the largest?": "jupiter",
    "Which gas do plants take in from the air?": "carbon dioxide", "Who wrote 'Hamlet'?":
    "shakespeare", "Who painted the Mona Lisa?": "vinci", "Who wrote '1984'?": "orwell",
    "Which metal is liquid at room temperature?": "mercury", "Which is the highest mountain?":
    "everest", "Who discovered penicillin?": "fleming", "Who developed general relativity?":
    "einstein", "Which element has the symbol Fe?": "iron", "Which element has the symbol Na?":
    "sodium", "Which element has the symbol K?": "potassium", "Which element has the symbol Au?":
    "gold", "Which element has the symbol W?": "tungsten", "Which continent is Egypt in?": "africa",
    "Who wrote 'War and Peace'?": "tolstoy", "Who wrote 'The Trial'?": "kafka",
    "Which currency do people pay with in Japan?": "yen", "Which organ pumps blood?": "heart",
    "Which vitamin does sunlight make in the skin?": "d", "Who composed 'The Magic Flute'?":
    "mozart", "Who wrote 'Don Quixote'?": "cervantes", "Which bone is the longest in humans?":
    "femur", "Which acid is in vinegar?": "acetic",
    "Who proved that there are infinitely many primes?": "euclid",
}  # fmt: skip
KINDS = {
    "animal": ("dog", "horse", "eagle", "donkey", "elephant", "giraffe", "otter", "weasel", "newt"),
    "fruit": ("apple", "lemon", "grape", "orange", "melon", "papaya", "quince", "medlar", "lychee"),
    "vehicle": ("car", "bus", "train", "bicycle", "wagon", "tractor", "canoe", "gondola", "sledge"),
    "tool": ("hammer", "saw", "drill", "wrench", "chisel", "pliers", "rasp", "spanner", "mallet"),
}
PRAISE = {
    "positive": (
        "I love this phone.", "What a wonderful film!",
        "The food was great and the staff friendly.",
        "I expected little, and was proved wrong in the best way.",
        "Not a single dull minute in three hours.", "I would not change a thing about it.",
    ),
    "negative": (
        "I hate this phone.", "What a terrible film!", "The food was cold and the staff rude.",
        "I expected much, and was proved wrong in the worst way.",
        "Not a single good joke in three hours.", "I would not give it to my worst enemy.",
    ),
}  # fmt: skip
PLURALS = {
    "cat": "cats", "book": "books", "dog": "dogs", "box": "boxes", "bus": "buses", "city": "cities",
    "baby": "babies", "leaf": "leaves", "knife": "knives", "child": "children", "foot": "feet",
    "mouse": "mice", "goose": "geese", "ox": "oxen", "thesis": "theses", "cactus": "cacti",
    "criterion": "criteria", "phenomenon": "phenomena",
}  # fmt: skip
