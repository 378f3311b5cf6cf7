"""Words that the toy world does not have: those close to one of its words, and foreign ones.

They only make the refusal of a prompt more helpful; see `dreamfusion.priors.words`.
"""

from __future__ import annotations

# Each word of the toy world, with the words that it is the closest one to. A word may stand in
# several rows, and is then answered in their order.
_CLOSE_TO: dict[str, str] = {
    "corgi": "wolf fox hound poodle beagle husky dachshund terrier labrador retriever bulldog "
    "coyote horse pony donkey zebra unicorn deer sheep lamb goat squirrel raccoon",
    "cat": "lion tiger leopard panther cheetah jaguar lynx mouse rat ferret raccoon fox",
    "rabbit": "hamster mouse rat squirrel kangaroo hedgehog chipmunk chinchilla",
    "duck": "goose swan chicken hen rooster chick parrot pigeon dove seagull flamingo bird turkey "
    "ostrich platypus",
    "penguin": "puffin seal walrus flamingo bird",
    "owl": "eagle hawk falcon crow raven bat bird sparrow parrot",
    "bear": "panda koala gorilla monkey ape polar grizzly sloth human man woman person child boy "
    "girl baby doll",
    "pig": "boar cow bull ox sheep goat hippo hippopotamus hog horse",
    "elephant": "rhino rhinoceros hippo hippopotamus mammoth giraffe camel cow horse",
    "fish": "shark whale dolphin salmon tuna octopus seahorse starfish crab lobster squid "
    "jellyfish seal coral",
    "turtle": "frog toad snail crab lizard crocodile alligator gecko beetle ladybug insect bug "
    "spider shell",
    "dinosaur": "dragon crocodile alligator lizard iguana snake godzilla monster raptor "
    "triceratops stegosaurus brontosaurus reptile griffin wyvern",
    "apple": "orange pear peach cherry tomato plum lime lemon mango strawberry fruit grape melon "
    "watermelon apricot raspberry",
    "banana": "lemon pear cucumber pickle fruit corn zucchini",
    "carrot": "radish parsnip turnip vegetable chili pepper cucumber zucchini corn asparagus",
    "donut": "bagel tire tyre ring wheel torus pretzel cookie",
    "ice cream": "icicle sundae gelato popsicle dessert cupcake",
    "burger": "sandwich hotdog pizza bun bread taco food sushi",
    "cake": "cupcake muffin pie pancake bread cookie dessert cheese tart pizza",
    "pumpkin": "orange squash melon watermelon tomato gourd onion potato lantern cabbage",
    "mushroom": "umbrella fungus flower tulip jellyfish",
    "chair": "armchair bench throne rocker",
    "sofa": "armchair bench loveseat",
    "table": "shelf bookshelf cabinet wardrobe cupboard drawer nightstand piano",
    "stool": "bench ottoman pedestal",
    "lamp": "lantern candle light bulb chandelier flashlight torch lighthouse",
    "bed": "cradle crib mattress pillow bunk",
    "car": "truck taxi jeep van tractor motorcycle bike bicycle scooter skateboard suv ambulance "
    "wagon cart tank vehicle",
    "bus": "van truck tram camper trailer ambulance",
    "train": "tram subway engine wagon trolley",
    "rocket": "missile spacecraft shuttle satellite ufo saucer candle",
    "airplane": "jet helicopter glider drone airliner bird",
    "sailboat": "canoe kayak ferry raft submarine gondola vessel",
    "hot air balloon": "blimp zeppelin airship parachute",
    "mug": "glass bowl goblet jar pot bucket vase tumbler",
    "teapot": "kettle pitcher jug watering pot samovar",
    "bottle": "jar vase flask vial can jug wine beer",
    "hat": "cap beanie helmet crown fedora sombrero coat boot shoe shirt dress clothes",
    "house": "cabin hut barn shed tent building church school lighthouse tower shack igloo "
    "birdhouse villa mill",
    "castle": "palace fort fortress tower temple church cathedral skyscraper",
    "snowman": "scarecrow gnome santa statue",
    "robot": "cyborg machine alien astronaut knight human man woman person computer camera "
    "transformer soldier",
    "cactus": "plant succulent aloe flower tulip rose",
    "pine tree": "oak palm maple birch willow bush plant forest leaf bonsai flower",
    "key": "lock padlock sword knife fork spoon guitar violin",
    "hammer": "axe hatchet mallet wrench screwdriver saw tool sword shovel pickaxe gavel",
    "star": "sun moon snowflake heart diamond starfish flower gem crystal medal",
    "ball": "globe planet earth moon sun marble bead pearl egg basketball football soccer baseball "
    "circle",
    "cube": "brick crate chest square tv television computer camera suitcase gift present book",
    "cone": "funnel horn carafe",
    "cylinder": "tube pipe barrel drum can pillar column candle",
    "pyramid": "tetrahedron triangle mountain volcano tent prism",
    "red": "ruby coral reddish rust",
    "orange": "copper amber apricot peach",
    "yellow": "lemon brass mustard blonde",
    "green": "olive greenish mint jade",
    "blue": "denim bluish sapphire",
    "purple": "plum mauve purplish",
    "pink": "salmon pinkish coral",
    "brown": "wood beige tan bronze chocolate leather rusty brownish khaki",
    "black": "dark ebony charcoal",
    "white": "light pale cream beige snowy pearl",
    "gray": "metal metallic steel iron stone chrome concrete",
    "tall": "lanky giant",
    "flat": "squashed",
    "wide": "fat chubby thick",
    "thin": "lean",
    "tiny": "baby young",
}  # fmt: skip
# Spelled much like a word of the toy world, but with nothing to do with it.
_CLOSE_TO_NOTHING = "stair stand staff stage chain charm brush"

# Common words of other languages in Latin letters: articles, colours, things to make.
_FOREIGN = (
    "un une le la les des du et avec chien chat cheval maison voiture chaise pomme rouge bleu "
    "vert jaune noir blanc ein eine einen einem der das dem den und mit hund katze pferd haus "
    "auto stuhl apfel tasse rot blau gelb schwarz weiss rote roter rotes blaue gruen el los "
    "las una uno con y perro gato caballo casa coche silla manzana taza rojo roja azul verde "
    "amarillo negro blanco il lo gli cane gatto cavallo macchina sedia mela rosso rossa blu "
    "giallo nero bianco um uma com cachorro carro vermelho een het met hond kat paard huis "
    "rood blauw geel zwart wit en ett och med bil hus sobaka koshka inu neko"
)


def related_words() -> dict[str, list[str]]:
    """Words that the toy world does not have, each with the words closest to it in meaning."""
    related: dict[str, list[str]] = {word: [] for word in _CLOSE_TO_NOTHING.split()}
    for known, others in _CLOSE_TO.items():
        for word in others.split():
            related.setdefault(word, []).append(known)
    return related


def foreign_words() -> list[str]:
    """Common words of other languages, none of which is a word of the toy world."""
    return _FOREIGN.split()
