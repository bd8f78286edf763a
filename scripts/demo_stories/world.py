"""The world and the grammar behind the demo stories.

A story is told by a plot about a small world: characters who live somewhere, own things, want something, fail for a
reason, are helped by someone and learn something. A plot tells the story sentence by sentence and notes the facts as it
goes, so that the same world also gives questions with right answers.

Two notations make up the grammar:
    [a|b|c]    one of these, chosen at random; may be nested, may be empty
    {h.his}    a value of the world: h is the hero, f the helper, t the thing, and so on
"""

import random
import re
from dataclasses import dataclass, field

from .words import ANIMALS, BOYS, GIRLS, HOBBIES, HOMES, NEAR, PLACES, THINGS, TRAITS


@dataclass
class Character:
    """Someone in a story. `kind` is girl, boy or an animal; the pronouns follow from `she`."""

    name: str
    kind: str
    she: bool

    def __post_init__(self):
        self.he, self.him, self.his, self.himself = ("she", "her", "her", "herself") if self.she else ("he", "him", "his", "himself")
        self.animal = self.kind in ANIMALS

    def __str__(self):
        return self.name


@dataclass
class Thing:
    """Something that can be owned, wanted, lost or shared; `use` completes "needed it to ..."."""

    adjective: str
    noun: str
    use: str

    def __str__(self):
        return f"{self.adjective} {self.noun}"


@dataclass
class Fact:
    """A question about the story, its answer, and the words that a right answer must contain."""

    question: str
    answer: str
    keys: list


@dataclass
class World:
    """One story's characters and things, the text told so far, and the facts noted on the way."""

    rng: random.Random
    names: dict = field(default_factory=dict)
    parts: list = field(default_factory=list)
    facts: list = field(default_factory=list)
    about: list = field(default_factory=list)

    # -- the grammar ---------------------------------------------------------------------------------------------------
    def phrase(self, *options):
        """One of `options` with its [a|b] choices made, its {values} put in and its articles mended."""
        text = self.rng.choice(options)
        while "[" in text:
            text = re.sub(r"\[([^\[\]]*)\]", lambda m: self.rng.choice(m[1].split("|")), text)
        text = re.sub(r" +", " ", text.format_map(self.names)).strip()
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)

    def fill(self, *options):
        """A phrase that is a sentence: its capitals are mended too."""
        text = self.phrase(*options)
        return re.sub(r'(^"?|[.!?] "?|\." "?)([a-z])', lambda m: m[1] + m[2].upper(), text)

    def say(self, *options):
        """Tells the next sentence or two."""
        self.parts.append(self.fill(*options))

    def maybe(self, *options, p=0.5):
        """Tells it with probability p."""
        if self.rng.random() < p:
            self.say(*options)

    def paragraph(self):
        """Starts a new paragraph, most of the time."""
        if self.parts and self.parts[-1] != "\n\n" and self.rng.random() < 0.7:
            self.parts.append("\n\n")

    def fact(self, question, answer, *keys):
        """Notes a question, its answer and the words (templates too) that a right answer has."""
        self.facts.append(Fact(self.fill(question), self.fill(answer), [self.phrase(k).lower() for k in keys]))

    def topic(self, *options):
        """Notes what to say in a request for this story: "a fox and a lost key"."""
        self.about += options

    def text(self):
        """The whole story, with single spaces between sentences."""
        return re.sub(r" ?\n\n ?", "\n\n", " ".join(self.parts)).strip()

    # -- the world -----------------------------------------------------------------------------------------------------
    def put(self, **values):
        """Adds values to the world, for use as {name} in templates."""
        self.names.update(values)

    def character(self, she=None, kinds=None):
        """A new character, whose name and kind nobody in this story has yet."""
        she = self.rng.random() < 0.5 if she is None else she
        taken = [c for c in self.names.values() if isinstance(c, Character)]
        name = self.rng.choice([n for n in (GIRLS if she else BOYS) if n not in [c.name for c in taken]])
        kinds = kinds or (ANIMALS if self.rng.random() < 0.7 else ["girl" if she else "boy"])
        return Character(name, self.rng.choice([k for k in kinds if k not in [c.kind for c in taken]]), she)

    def cast(self, kinds=None, hero_kinds=None):
        """The hero h and the helper f; they differ in pronoun, so that "he" and "she" are never in doubt."""
        self.put(h=self.character(kinds=hero_kinds))
        self.put(f=self.character(she=not self.names["h"].she, kinds=kinds))

    def thing(self, nouns=None):
        """A thing with a fitting adjective and a use."""
        noun = self.rng.choice(nouns or list(THINGS))
        adjectives, uses = THINGS[noun]
        return Thing(self.rng.choice(adjectives.split()), noun, self.rng.choice(uses))

    def places(self, count):
        """Different places, each as (place, spot)."""
        return [(p, self.rng.choice(PLACES[p])) for p in self.rng.sample(list(PLACES), count)]

    # -- what all stories share ----------------------------------------------------------------------------------------
    def opening(self, trait=None):
        """Introduces the hero: name, kind, home, character."""
        trait = trait or self.rng.choice(TRAITS)
        home = self.phrase(f"in a [{HOMES}] [{NEAR}]")
        self.put(home=home, trait=trait, hobby=self.rng.choice(HOBBIES), small=self.rng.choice(["little", "young", "small"]))
        self.say(
            "[Once upon a time, |Once upon a time, |Once upon a time, |Long ago, |]there [lived a [{small} |{trait} |]{h.kind} named {h}.|was a [{small} |{trait} |]{h.kind} named {h} who lived {home}.]",
            "Once upon a time, {home}, there lived a [{small}|{trait}] {h.kind} named {h}.",
            "Once upon a time, a [{small}|{trait}] {h.kind} [named|called] {h} lived {home}.",
            "{home}, there [lived|was] a [{small}|{trait}] {h.kind} named {h}.",
            "{h} was a [{small}|{trait}] {h.kind} who lived {home}.",
            "[One day|Long ago|One year], {home}, [there lived a {trait} {h.kind} named {h}|a {h.kind} named {h} woke up early].",
        )
        if home.lower() not in self.parts[-1].lower():
            self.say("{h.he} lived {home}.", "{h.his} home was {home}.")
        habits = [
            "[{h}|{h.he}] [liked|loved] to {hobby}[.| all day long.| every morning.| with {h.his} friends.]",
            "[{h}|{h.he}] [liked|loved] to {hobby} and [everyone liked {h.him}|had many friends|never sat still for long].",
            "every [morning|evening|day], {h} [liked to|went out to] {hobby}.",
        ]
        if trait not in self.parts[0]:
            habits = [
                "{h.he} was [very |always |]{trait}[.| and liked to {hobby}.| and everyone liked {h.him}.]",
                "everyone [knew|said] that {h} was [very |]{trait}.",
            ]
        self.maybe(*habits, p=0.7)
        self.paragraph()
        self.fact("Who is the story about?", "The story is about {h}, a {h.kind}.", "{h}")
        self.fact("Where [did|does] {h} live?", "{h} lived {home}.", "{home}")
        if self.names["h"].animal:
            self.fact("What [kind of |]animal [is|was] {h}?", "{h} was a {h.kind}.", "{h.kind}")

    def meet(self):
        """The helper comes along."""
        self.say(
            "[Just then|Soon|At that moment], {f} the {f.kind} came [by|along][.| with a basket of [apples|bread|nuts].| on {f.his} way home.]",
            "[Soon|Then] {h.he} met {f} the {f.kind}[.|, who was {h.his} [good |old |]friend.]",
            "[Then|After a while], a {f.kind} named {f} [heard|saw] {h} and came [closer|over|to see].",
            "{f} the {f.kind} lived nearby and [heard|saw] everything.",
        )
        self.maybe(
            '"What is [wrong|the matter], {h}?" [asked {f}|{f} asked|said {f}].',
            '"Why do you look so [sad|worried], {h}?" [{f} asked|asked {f}].',
            '"Hello, {h}! [Can I help you|May I help|What has happened]?" [asked {f}|said {f}].',
            p=0.75,
        )
        self.fact("Who helped {h}?", "{f} the {f.kind} helped {h}.", "{f}")

    def learned(self, lesson):
        """The lesson, once or in two ways; `lesson` completes "learned that ..."."""
        self.put(lesson=lesson)
        self.say(
            "[From that day on|After that day|From then on], {h} [knew|always remembered|never forgot] that {lesson}.",
            "{h} [had |]learned that {lesson}.",
            "That [day|night|evening], {h} [learned|understood] that {lesson}.",
            '"[Now I know|I have learned|Today I learned] that {lesson}," said {h}.',
        )
        self.fact("What did {h} learn?", "{h} learned that {lesson}.", "{lesson}")

    def farewell(self):
        """A last sentence."""
        self.maybe(
            "And they [all |both |]lived happily ever after.",
            "The end.",
            "{h} and {f} [were|stayed] [good|best] friends [forever|from that day on|ever after].",
            "[That night|That evening], {h} [fell asleep|went to bed] with a [happy|big|quiet] smile.",
            "And {h} was [very |]happy.",
            "They laughed [together |]until the [sun went down|stars came out|moon was high].",
            p=0.75,
        )
