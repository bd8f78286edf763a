"""The words of the demo stories: names, animals, things, places, and what the plots need to know about them."""

GIRLS = "Anna Bella Clara Daisy Ella Greta Hana Lily Maya Olive Rosa Zoe".split()
BOYS = "Arlo Ben Finn Gus Hugo Jack Leo Max Omar Pip Sam Tom".split()
ANIMALS = (
    "fox rabbit bear mouse owl duck hedgehog cat dog frog squirrel goat badger turtle crow mole otter lamb pony goose deer pig beaver hen"
).split()
CLIMBERS = ["squirrel", "cat", "owl", "crow", "goose", "duck"]  # who can get a thing down from a height
COLOURS = "red blue green yellow white purple orange".split()

# noun -> (adjectives, what it is used for)
THINGS = {
    "key": ("silver golden rusty little", ["open the garden gate", "open the old wooden chest", "open the door of the tower"]),
    "bell": ("brass silver little old", ["call the sheep home", "wake everyone for breakfast", "call the boats in the fog"]),
    "lantern": ("brass red little old", ["light the path at night", "see in the dark cellar", "show the boats the way home"]),
    "drum": ("red blue wooden round", ["play at the summer fair", "make music for the dance", "lead the parade"]),
    "flute": ("wooden silver long little", ["play at the summer fair", "play a song for Grandma", "make the birds sing"]),
    "kite": ("red blue yellow big", ["play in the wind", "win the kite contest"]),
    "ball": ("red blue green round", ["play with the other children", "play on the grass after lunch"]),
    "hat": ("green straw warm blue", ["keep the sun away", "look fine at the party", "keep warm in the snow"]),
    "scarf": ("warm red striped long", ["keep warm in winter", "keep warm on the way to school"]),
    "map": ("old paper yellow folded", ["find the way to the lake", "find the hidden cave", "find the way home"]),
    "book": ("big blue old thick", ["read to the little ones at night", "learn the names of the stars"]),
    "basket": ("round straw big brown", ["carry apples from the market", "bring bread to Grandma", "gather berries"]),
    "whistle": ("tin silver wooden loud", ["call the dog", "start the big race", "call for help in the fog"]),
    "spoon": ("wooden silver long big", ["stir the soup", "make pancakes", "taste the honey"]),
    "umbrella": ("yellow striped big green", ["stay dry in the rain", "walk to school in the rain"]),
    "brush": ("soft long old little", ["paint the fence", "paint a picture of the sea"]),
    "rope": ("long strong brown thick", ["tie the boat to the pier", "make a swing"]),
    "blanket": ("soft warm blue striped", ["sleep well at night", "keep the baby warm"]),
    "shovel": ("little strong red old", ["dig in the garden", "clear the snow from the door"]),
    "cup": ("white blue little painted", ["drink warm milk", "bring water to the flowers"]),
    "boat": ("toy wooden little white", ["play at the pond", "race on the stream"]),
    "ribbon": ("long pink silk blue", ["tie up a present", "look fine at the dance"]),
}
# place, with its preposition -> spots where a thing may lie or hide
PLACES = {
    "in the forest": ["under a pine tree", "in a hollow log", "behind a mossy rock", "under the dry leaves"],
    "in the garden": ["between the roses", "under a bench", "behind the watering can", "among the cabbages"],
    "at the market": ["under the apple cart", "behind a sack of flour", "next to the cheese stand"],
    "by the river": ["in the tall reeds", "on a flat stone", "under the wooden bridge"],
    "on the beach": ["in a heap of shells", "under a small boat", "in a pool between the rocks"],
    "in the barn": ["in the hay", "behind the milk cans", "under an old cart"],
    "on the hill": ["in the long grass", "behind a big stone", "under the lonely oak"],
    "at the mill": ["behind the wheel", "on a pile of sacks", "under the steps"],
    "in the meadow": ["among the daisies", "under a bush", "in a rabbit hole"],
    "at the school": ["under a desk", "on the window sill", "behind the door"],
    "in the park": ["under the swing", "on a bench", "behind the fountain"],
    "in the orchard": ["under a pear tree", "in an empty basket", "behind a ladder"],
    "at the pond": ["among the lilies", "in the soft mud", "on a wet log"],
    "at the harbor": ["under a fishing net", "in an old barrel", "behind a pile of ropes"],
}
HOMES = "small village|small village|little house|green valley|old town|cozy cottage|little hut|wooden cabin|stone house"
NEAR = "by the sea|near the forest|beside a river|under a big hill|at the edge of a meadow|by a blue lake|behind the old mill|near the mountains"
TRAITS = "kind cheerful clever gentle lively curious quiet brave merry".split()
HOBBIES = (
    "sing|count the clouds|climb trees|draw pictures|collect round stones|bake little cakes|listen to old stories|look at the stars|"
    "jump over puddles|watch the birds|help in the garden|run in the wind|dance in the kitchen|pick flowers|build small towers"
).split("|")

FAMILY = ["Grandma", "Grandpa", "Mother", "Father", "Uncle Bert", "Aunt Rose"]
JOBS = [("sweep the floor", "swept the floor"), ("carry the water", "carried the water"), ("paint the gate", "painted the gate"),
        ("fix the fence", "fixed the fence"), ("chop the wood", "chopped the wood"), ("wash the windows", "washed the windows")]  # fmt: skip
# gift -> (what is missing, who has it, where)
RECIPES = {
    "a honey cake": ("honey", "bees", "in the orchard"),
    "an apple pie": ("apples", "farmer", "at the market"),
    "a berry tart": ("berries", "bear", "in the forest"),
    "a fish soup": ("salt", "fisherman", "at the harbor"),
    "a loaf of bread": ("flour", "miller", "at the mill"),
    "a pot of jam": ("plums", "gardener", "in the garden"),
    "a warm quilt": ("wool", "shepherd", "on the hill"),
    "a flower crown": ("daisies", "old goat", "in the meadow"),
    "a pumpkin soup": ("milk", "old cow", "in the barn"),
    "a paper lamp": ("paper", "teacher", "at the school"),
}
# fear -> (what it is like there, where the friend is)
FEARS = {
    "the dark": ("It was black as ink there", "in the dark cellar"),
    "deep water": ("The water was cold and fast", "on a rock in the stream"),
    "thunder": ("The thunder was loud", "out in the storm"),
    "high places": ("It was a long way down", "on the high bridge"),
    "the night forest": ("The trees made long shadows", "in the night forest"),
    "the old cave": ("Every step made an echo", "in the old cave"),
}
# goal -> (what is in the way, how two get past it, what they see)
JOURNEYS = {
    "the sea": ("a wide river", "made a raft of old logs", "the waves were blue and endless"),
    "the snow on the mountain": ("a steep rock", "tied a strong rope to a tree", "the snow was soft and white"),
    "the great waterfall": ("a dark forest", "followed the sound of the water", "the water fell like silver"),
    "the city lights": ("a broken bridge", "laid a long plank over the gap", "the lights shone like stars"),
    "the flower valley": ("a thick fog", "rang a little bell so that nobody got lost", "there were flowers of every color"),
    "the old lighthouse": ("a muddy swamp", "stepped from stone to stone", "the light turned round and round"),
    "the whales": ("a high wall of rock", "found a small path around it", "the whales sang in the bay"),
}
