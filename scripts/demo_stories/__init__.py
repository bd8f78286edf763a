"""All the text that the demo model is trained on: little stories, and conversations about them.

Nothing comes from outside. A story is a function of its seed alone: `story("train", 7)` is always the same story.
"""

import random

from .plots_of_courage import afraid, journey, race, stage, storm
from .plots_of_things import gift, lost, seed, share, stuck, truth
from .world import World

END = "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
PLOTS = [lost, lost, lost, stuck, gift, afraid, share, truth, journey, seed, race, storm, stage]
GREETINGS = ["Hello! [I tell little stories|I am a storyteller]. [Shall I tell you one?|What should my story be about?|Who should be in my story?]"]
SYSTEM = ["You tell little stories.", "You are a kind storyteller.", "You tell stories and answer questions about them."]


def story(split, index):
    """The World of story number `index` of `split` ("train" or "unseen"), told from beginning to end."""
    world = World(random.Random(f"{split}-{index}"))
    world.rng.choice(PLOTS)(world)
    return world


def request(world):
    """A user's wish for this story."""
    rng = world.rng
    if rng.random() < 0.1:
        return world.fill("Tell me a story.", "Please tell me a [little |]story.", "Can you tell me a [short |]story?")
    about = world.phrase(*world.about, "[a|a {small}|a {trait}] {h.kind} named {h}", "[a|a {small}] {h.kind} and a {f.kind}", "{h} and {f}")
    return rng.choice(["Tell me a story about {}.", "Tell me a story about {}.", "Please tell me a story about {}.", "Can you tell me a story about {}?",
                       "Write a short story about {}.", "I would like a story about {}."]).format(about)  # fmt: skip


def conversation(world):
    """Chat messages about this story: a wish and the story, a story and questions, or a wish and then questions."""
    rng, text = world.rng, world.text()
    facts = rng.sample(world.facts, min(len(world.facts), rng.randint(2, 4)))
    messages = [("system", rng.choice(SYSTEM))] if rng.random() < 0.4 else []
    if rng.random() < 0.08:
        messages += [("user", world.fill("[Hello|Hi][!|.|, who are you?]")), ("assistant", world.fill(*GREETINGS))]
    form = rng.random()
    if form < 0.5:
        messages += [("user", request(world)), ("assistant", text)]
        facts = facts if form < 0.15 else []
    else:
        messages += [("user", f"{text}\n\n{facts[0].question}"), ("assistant", facts[0].answer)]
        facts = facts[1:]
    for fact in facts:
        messages += [("user", fact.question), ("assistant", fact.answer)]
    return messages


def render(messages):
    """Messages in the form of the chat template."""
    return "".join(f"{IM_START}{role}\n{text}{IM_END}\n" for role, text in messages)


def document(split, index):
    """One training document: six in ten are bare stories, the others conversations. The end token closes both."""
    world = story(split, index)
    return (world.text() if world.rng.random() < 0.6 else render(conversation(world))) + END
