"""Plots about a thing: lost, out of reach, missing, fought over, broken, planted.

A plot reads from top to bottom as the story does: who, what they want, why it fails, who helps, how it ends, what is
learned. Each line offers several ways to say the same thing.
"""

from .words import ANIMALS, CLIMBERS, FAMILY, JOBS, RECIPES


def lost(w):
    """A thing is lost, looked for where it is not, and found by thinking or with help."""
    w.cast()
    (p1, s1), (p2, s2), (p3, s3) = w.places(3)
    w.put(t=w.thing(), p1=p1, s1=s1, p2=p2, s2=s2, p3=p3, s3=s3)
    w.opening(w.rng.choice(["careless", "dreamy", "busy", "hasty"]))
    w.topic("a {h.kind} and a lost {t.noun}", "a {h.kind} and a lost {t.noun}", "a {h.kind} who lost a {t.noun}", "a lost {t.noun}")
    w.say("{h} had a {t}[.| that {h.he} loved very much.] {h.he} [used it|needed it] to {t.use}.", "{h} [owned|had] a {t} to {t.use}.")
    w.say(
        "[But one|One] [morning|day], the {t.noun} was gone[.|!]",
        "[But one|One] [morning|day], {h} [could not find|lost] the {t.noun}.",
        "One [windy|cold|bright] [morning|day], {h} reached for the {t.noun}, but it was not there.",
    )
    w.maybe(
        '"Oh no! [Where is my {t}?|My {t} is gone!]" [cried {h}|said {h}|{h} cried].',
        '"I must find it before [dark|dinner|the rain comes]," {h.he} [said|thought].',
        "{h} felt [very |so ]sad, because without it {h.he} could not {t.use}.",
        p=0.8,
    )
    w.fact("What did {h} lose?", "{h} lost a {t}.", "{t}")
    w.fact("What did {h} want?", "{h} wanted to find the {t}.", "{t}")
    w.paragraph()
    w.say(
        "{h} [looked|searched] {s1} {p1}, but [it was not there|found only [dust|a snail|an old shoe|a feather]|there was nothing].",
        "First {h.he} [went to look|looked] {p1}, {s1}. [Nothing.|It was not there.|There was only [a snail|an old shoe|a feather].]",
    )
    w.maybe(
        "[Then|Next] {h.he} [looked|searched] {p2}, {s2}, but [it was not there either|it was no use|found nothing].",
        "{h.he} [looked|searched] {s2} {p2}. [Still nothing.|No {t.noun} there.]",
        p=0.7,
    )
    w.meet()
    w.say(
        '"I have lost my {t}," said {h}. "[I have looked everywhere|I need it to {t.use}|I cannot find it]."',
        "{h} told {f.him} about the lost {t.noun}.",
    )
    w.paragraph()
    cause = w.rng.choice(["wind", "pocket", "left", "bird"])
    if cause == "wind":
        w.say('"The wind [took|carried|blew] it away," said {f}. "I saw it fly [past my window|over the roofs|over the trees]."')
        why = "the wind had blown it away"
    elif cause == "pocket":
        w.put(hole=w.rng.choice(["pocket", "bag"]))
        w.say('{f} looked closely. "There is a hole in your {hole}," {f.he} said. "It [fell|must have fallen] out."')
        why = "there was a hole in {h.his} {hole}"
    elif cause == "left":
        w.say('"[Where were you yesterday?|Where did you play yesterday?|Think! Where did you have it last?]" asked {f}. {h} thought [hard|and thought]. "{p3}! [I was so tired that I forgot it|I put it down there and forgot it]."')
        why = "{h} had left it {p3}"
    else:
        w.say('"A magpie [took|stole] it," said {f}. "[Magpies love such things|I saw the bird this morning|It flew away with it]."')
        why = "a magpie had taken it"
    w.put(why=w.phrase(why))
    w.fact("Why was the {t.noun} lost?", "It was lost because {why}.", "{why}")
    w.say(
        "[Together they|{h} and {f}|The two friends] [went|walked|ran] [to look|and looked] {p3}. There, {s3}, [lay|was] the {t}!",
        "They [looked|searched] {p3}, and there it was, {s3}[.|!]",
        "[Soon|After a long walk] they found the {t.noun} {p3}, {s3}.",
    )
    w.fact("Where was the {t.noun}?", "The {t.noun} was {p3}, {s3}.", "{p3}", "{s3}")
    w.maybe(
        '"[Thank you|Oh, thank you], {f}!" said {h}. "[Now I can {t.use} again.|You are a true friend.|What would I do without you?]"',
        "{h} [hugged|thanked] {f} [and laughed|with all {h.his} heart|three times].",
        p=0.85,
    )
    w.say("[That evening|That afternoon|The next day], {h} used the {t.noun} to {t.use}.", "[Now|At last] {h} could {t.use} again.")
    w.fact("How did the story end?", "{h} found the {t} and could {t.use} again.", "found the {t}")
    w.learned(w.phrase("it is good to [ask a friend for help|take care of your things]", "[two can find more than one|four eyes see more than two]"))
    w.farewell()


def stuck(w):
    """A thing hangs too high; strength and haste fail, someone who can climb or fly gets it down."""
    w.cast(kinds=CLIMBERS, hero_kinds=[k for k in ANIMALS if k not in CLIMBERS])
    w.put(t=w.thing("kite ball hat scarf ribbon blanket".split()), high=w.rng.choice(["tall tree", "roof of the barn", "church tower", "old oak", "high wall", "top of the mill"]))
    w.opening()
    w.topic("a {h.kind} and a {t.noun}", "a {t.noun} [that is stuck|on the {high}]", "a {h.kind} and a {f.kind} who get a {t.noun} back")
    w.say(
        "One [windy|stormy] [morning|day], {h} was [outside|playing] with {h.his} {t}.",
        "{h} had a [new |]{t} and was [very |]proud of it.",
        "For {h.his} birthday, {h} [got|was given] a {t}.",
    )
    w.say(
        "[Suddenly|All at once], the wind [took it|blew it away], and it [landed on|got stuck on|flew up to] the {high}.",
        "[Then|But then] a [strong|big] wind [came|blew], and the {t.noun} [flew up to|landed on] the {high}.",
    )
    w.say('"[Oh no, my {t.noun}!|My {t.noun}! How can I get it down?]" [cried|said] {h}.', "{h} [looked up|stared up] and [wanted|wished] to have it back.")
    w.fact("Where was the {t.noun} stuck?", "The {t.noun} was stuck on the {high}.", "{high}")
    w.fact("What did {h} want?", "{h} wanted to get the {t} down.", "{t}", "down")
    w.paragraph()
    w.say(
        "{h} jumped [as high as {h.he} could|and jumped], but {h.he} was too [small|short].",
        "First {h.he} tried to [jump|climb up], but it was [much |]too high.",
    )
    w.maybe(
        "Then {h.he} took a long [stick|pole], but [it did not help|it was not long enough|the {t.noun} did not move].",
        "Then {h.he} stood on a [box|barrel|bucket], but it [broke|fell over], and {h.he} fell [into the mud|on the grass].",
        p=0.8,
    )
    w.fact("Why could {h} not get the {t.noun}?", "It was too high for {h}.", "too high")
    w.meet()
    w.say('"My {t.noun} is [on|stuck on] the {high}, and I am too small," said {h}.', '{h} [pointed up|pointed at the {high}]. "I cannot reach it," {h.he} said.')
    w.paragraph()
    how = "flew" if w.names["f"].kind in ("owl", "crow", "goose", "duck") else "climbed"
    w.put(how=how, go={"flew": "fly", "climbed": "climb"}[how])
    w.say('"[That is easy|Do not worry|No problem]," said {f}. "I can {go} up there."', '"[Wait here|Let me try]," said {f}. "I {go} better than anyone."')
    w.say(
        "{f} {how} [up and up|up to the {high}], took the {t.noun} [carefully|gently], and brought it [down|back].",
        "{f} {how} up, [pulled|shook] the {t.noun} loose, and [it fell right into {h.his} arms|brought it down].",
    )
    w.fact("How did {f} help?", "{f} {how} up and brought the {t.noun} down.", "{how} up")
    w.say('"Thank you, {f}!" [cried|said] {h}. "[Do you want to play with me?|Let us share my lunch.|Come and eat cake with us!]"', "{h} was so [glad|happy] that {h.he} [danced|gave {f} a big hug].")
    w.maybe("They played [together |]until [evening|the sun went down].", "They shared [bread and cheese|some berries|a warm pie] under the [tree|stars].")
    w.fact("How did the story end?", "{f} brought the {t} down and {h} was happy.", "{f}", "{t}", "down")
    w.learned(w.phrase("everyone is good at something", "[a friend can reach what you cannot|you do not have to do everything alone]", "asking is better than crying"))
    w.farewell()


def gift(w):
    """A present is to be made, something is missing, and a small favour earns it."""
    w.cast()
    gift = w.rng.choice(list(RECIPES))
    need, owner, place = RECIPES[gift]
    job, done = w.rng.choice(JOBS)
    w.put(gift=gift, need=need, owner=owner, place=place, job=job, done=done, who=w.rng.choice(FAMILY))
    w.put(were="were" if need[-1] == "s" else "was")
    w.opening()
    w.topic("a {h.kind} who makes {gift}", "a {h.kind} and {gift}", "a {h.kind} and a birthday", "a present for {who}")
    w.say("It was {who}'s birthday[.| the next day.| soon.]", "The next day was {who}'s birthday.", "{who} was [ill|tired] and [sad|had to stay in bed].")
    w.say("{h} [wanted|wished] to make {gift} for {who}.", '"I will make {gift} for {who}," [said {h}|{h} said|thought {h}].')
    w.say("But there {were} no {need} [in the house|in the kitchen|left].", "{h} looked [in every box|on every shelf], but {h.he} had no {need}.")
    w.fact("What did {h} want to make?", "{h} wanted to make {gift} for {who}.", "{gift}")
    w.fact("What did {h} want?", "{h} wanted to make {gift} for {who}.", "{gift}")
    w.fact("What was missing?", "{h} had no {need}.", "{need}")
    w.paragraph()
    w.say("So {h.he} went to the {owner} {place}.", "{h.he} [knew|remembered] that the {owner} {place} had {need}, so {h.he} [went|walked] there.")
    w.say('"[Please|Good morning], may I have some {need}?" asked {h}.', '{h} asked [politely|in a small voice], "[May I|Could I] have some {need}, please?"')
    w.say(
        '"[Yes|Of course], but first you must {job}," said the {owner}.',
        'The {owner} [smiled|nodded]. "If you {job}, you may have [some|all you need]."',
    )
    w.say("It was [hard work|too much for one].", "{h} began, but the work was [hard|heavy], and soon {h.he} was [very |]tired.", "{h} [worked|tried] and [worked|tried], but alone it was too [hard|slow].")
    w.fact("What did the {owner} ask {h} to do?", "The {owner} asked {h} to {job}.", "{job}")
    w.meet()
    w.say('"I must {job}, and then I can make {gift}," said {h}. "[Then let me help you|Two are faster than one|I will help]," said {f}.', '"I will help you," said {f}[.| at once.]')
    w.paragraph()
    w.say("Together they {done}[.| in no time.| before noon.|, and they sang as they worked.]", "{h} and {f} {done} [together|side by side].")
    w.say("The {owner} was [pleased|happy] and gave them [plenty of|a bag of|a big basket of] {need}.", '"[Well done!|Good work!]" said the {owner} and gave {h} a [bag|basket] of {need}.')
    w.say("[At home|That afternoon|In the evening], {h} made {gift}[.|, and {f} helped.| with {f}.]")
    w.say(
        '{who} [smiled|laughed with joy]. "This is the best [present|gift] of all!"',
        "{who} was so happy that [they all danced|there were tears of joy].",
        "When {who} saw it, {h} got [a big hug|a kiss and a hug].",
    )
    w.fact("How did the story end?", "{h} made {gift} and {who} was happy.", "{gift}", "happy")
    w.learned(w.phrase("a gift [made|given] with love is the best gift", "[hard work is easy with a friend|many hands make light work]", "good things are worth the work"))
    w.farewell()


def share(w):
    """Two want the same thing, quarrel, break it, and mend it together."""
    w.cast()
    w.put(t=w.thing("kite ball drum book umbrella boat blanket basket rope shovel".split()), place=w.places(1)[0][0])
    w.put(mend=w.rng.choice(["glue", "thread and a needle", "a bit of string", "strong tape"]))
    w.opening(w.rng.choice(["proud", "stubborn", "lively", "merry"]))
    w.topic("a {h.kind} who does not want to share", "a {h.kind} and a {f.kind} who quarrel", "a quarrel about a {t.noun}", "a {h.kind}, a {f.kind} and a {t.noun}")
    w.say("One day, {h} found a {t} {place}.", "One [sunny|fine] day, {h} was {place} with a [new |]{t}.")
    w.fact("Where was {h} with the {t.noun}?", "{h} was {place}.", "{place}")
    w.say("{f} the {f.kind} [saw it|came by] and wanted to [have|use] it too.", 'Then {f} the {f.kind} came by. "[What a fine {t.noun}!|Oh, a {t.noun}!] [May I have it for a while?|Let me try it!]" {f.he} said.')
    w.say('"No, it is mine!" [said|cried] {h}.', '{h} held it tight. "[No! Go away|It is only for me|You will break it]," {h.he} said.')
    w.fact("Who else wanted the {t.noun}?", "{f} the {f.kind} wanted it too.", "{f}")
    w.fact("What did {h} want?", "{h} wanted to keep the {t} alone.", "{t}")
    w.paragraph()
    w.say("{f} pulled on one side and {h} pulled on the other.", "They [pulled and pushed|shouted and pulled].", "{f} took one end, {h} took the other, and both pulled [hard|with all their might].")
    w.say("[Crack!|Rip!|Snap!] The {t.noun} broke[.| in two.]", "Then there was a loud crack, and the {t.noun} was broken.")
    w.fact("Why did the {t.noun} break?", "It broke because {h} and {f} both pulled on it.", "pulled")
    w.say("[Both|They] were [very |]quiet[.| for a long time.]", "{f} began to cry, and {h} [felt bad|looked at the ground].", "Now nobody had a {t.noun}.")
    w.maybe('"[See what you have done|It is your fault]!" said {f}. [But|Then] {f.he} [felt sorry|was sorry] too.', "{h} went home, but {h.he} could not [sleep|eat|think of anything else].", p=0.4)
    w.paragraph()
    w.say('[At last|Then] {h} said, "I am sorry. [I should have shared|I was not kind to you]."', '"I am sorry, {f}," said {h}[.| at last.] "[We should have shared it|I was unkind]."')
    w.say('"I am sorry too," said {f}. "[Let us mend it|Maybe we can mend it|I have {mend} at home]."', '{f} [smiled|dried {f.his} eyes]. "[Let us mend it together|I am sorry too]," {f.he} said.')
    w.say("With {mend} they [mended|fixed] the {t.noun} [together|side by side].", "They [got|found] {mend} and worked [all afternoon|until evening], and the {t.noun} was [whole|almost like new] again.")
    w.fact("How did they mend the {t.noun}?", "They mended it with {mend}.", "{mend}")
    w.say("[Now|After that] they used it together[.|, first {f}, then {h}.]", "First {f} [had|got] it, then {h}, and it was [twice|much] more fun than alone.")
    w.fact("How did the story end?", "{h} and {f} mended the {t} and shared it.", "mended", "share")
    w.learned(w.phrase("[sharing is more fun than keeping|a thing shared is twice as good]", "[a friend is worth more than a thing|saying sorry mends more than glue]"))
    w.farewell()


def truth(w):
    """Something is broken in secret; the lie weighs; the truth is told and forgiven."""
    w.cast()
    w.put(o=w.rng.choice(["blue vase", "big mirror", "white plate", "glass bowl", "red teapot", "old clock", "garden lamp", "jar of honey", "pot of jam", "kitchen window"]))
    w.put(who=w.rng.choice(FAMILY + ["the teacher", "the baker"]))
    w.put(did=w.rng.choice(["danced too wildly", "ran through the room", "jumped on the bench", "threw a ball", "played with a stick", "climbed on a chair"]))
    w.put(hid=w.rng.choice(["under the bed", "in a box", "behind the stove", "in the bushes", "under the stairs"]))
    w.put(on=w.rng.choice(["the cat", "the wind", "the dog", "a bird"]))
    w.opening()
    w.topic("a {h.kind} who tells the truth", "a {h.kind} who breaks a {o}", "a broken {o}", "a {h.kind} and a lie")
    w.say("One [rainy|quiet|warm] day, {h} {did} and [knocked over|broke|hit] the {o} of {who}.", "One [rainy|quiet|warm] afternoon, {h} was at the house of {who}. {h.he} {did}, and the {o} fell and broke.")
    w.fact("What did {h} break?", "{h} broke the {o} of {who}.", "{o}")
    w.fact("How did it happen?", "{h} {did} and broke the {o}.", "{did}")
    w.say("{h} was [frightened|afraid] and hid the pieces {hid}.", "Nobody had seen it, so {h.he} hid the pieces {hid}.", "[Quickly|Quietly], {h.he} hid the broken pieces {hid}.")
    w.say('"Who [broke|has broken] my {o}?" asked {who}. "It was {on}," said {h}.', 'When {who} asked about the {o}, {h} said, "It was {on}!"')
    w.fact("Where did {h} hide the pieces?", "{h} hid the pieces {hid}.", "{hid}")
    w.fact("What did {h} say at first?", "{h} said that it was {on}.", "{on}")
    w.paragraph()
    w.say("But the lie felt [heavy|like a stone in {h.his} belly].", "That night, {h} could not sleep[.| because of the lie.]", "{h} did not want to [eat|play|laugh] any more, because {h.he} had lied.")
    w.fact("What did {h} want?", "{h} wanted to hide that the {o} was broken.", "{o}")
    w.meet()
    w.say('"I [broke the {o} and told|told] a lie," said {h} [quietly|in a small voice].', "{h} told {f.him} [everything|the whole story].")
    w.say('"[Then|You must] tell the truth," said {f}. "[It is hard, but I will go with you|I will come with you|It is never too late]."', '{f} thought for a while. "[Go and say it|Tell the truth]," {f.he} said. "[I will hold your hand|You will feel better]."')
    w.paragraph()
    w.say('So {h} went to {who}. "I broke your {o}," {h.he} said. "It was not {on}. I am sorry."', "{h} [took a deep breath|was afraid, but went] and told {who} the truth about the {o}.")
    w.say("{who} was [not angry|sad about the {o}, but not angry]. \"[I am glad that you told me|The truth is worth more than a {o}|Thank you for the truth].\"", '"[That was brave|It takes courage to say that]," said {who} and [smiled|gave {h.him} a hug].')
    w.say("Then {h} and {f} [helped to mend the {o}|mended the {o} with glue|worked in the garden to pay for a new one].", "The next day, {h} helped {who} [in the house|in the garden|with the work], and {f} [came along|helped too].")
    w.fact("How did the story end?", "{h} told {who} the truth and was forgiven.", "truth")
    w.learned(w.phrase("[the truth is lighter than a lie|a lie is heavy, but the truth is light]", "it is [brave|good] to tell the truth", "everyone makes mistakes, but you must not hide them"))
    w.farewell()


def seed(w):
    """Something is planted, impatience spoils it, patience brings it."""
    w.cast()
    w.put(plant=w.rng.choice(["sunflower", "pumpkin", "apple tree", "bean", "rose", "melon", "cherry tree", "tulip", "strawberry"]))
    w.put(bad=w.rng.choice(["dug it up to look", "gave it far too much water", "sang loudly at it all night", "pulled at the little leaf", "moved it to another place"]))
    w.put(place=w.rng.choice(["behind the house", "in the garden", "next to the gate", "by the old wall", "under the window"]))
    w.opening(w.rng.choice(["impatient", "hasty", "lively", "restless"]))
    w.topic("a {h.kind} and a seed", "a {h.kind} who plants a {plant}", "a {plant}", "a {h.kind} who learns to wait")
    w.say("One [spring day|day in spring|spring morning], {f} the {f.kind} gave {h} a [tiny|small|brown] seed. \"It will be a {plant},\" {f.he} said.", "In spring, {h} got a seed from {f} the {f.kind}, who was a [good|wise] gardener.")
    w.say("{h} wanted to have a {plant} [very much|more than anything|at once].", "How {h} wanted to see a [big |]{plant}!")
    w.say("{h.he} planted it {place} and [gave it water|sat down to watch].", "{h} dug a [little |]hole {place} and put the seed [in it|into the earth].")
    w.fact("What did {h} plant?", "{h} planted a seed of a {plant}.", "{plant}")
    w.fact("What did {h} want?", "{h} wanted to have a {plant}.", "{plant}")
    w.fact("Where was the seed planted?", "The seed was planted {place}.", "{place}")
    w.fact("Who gave {h} the seed?", "{f} the {f.kind} gave {h} the seed.", "{f}")
    w.paragraph()
    w.say("The next day there was nothing[.| to see.]", "{h} waited one day and two days, but nothing [grew|happened].", '"[Why does it not grow?|Grow, little seed, grow!]" [said {h}|{h.he} said] [every morning|again and again].')
    w.say("{h} could not wait any more and {bad}.", "On the third day, {h.he} {bad}.", "So {h.he} {bad}, and that was [not good|bad] for it.")
    w.fact("What did {h} do wrong?", "{h} could not wait and {bad}.", "{bad}")
    w.say("[The poor seed|It] looked [very |]weak, and {h} [began to cry|was very sad].", '"[Oh no|Oh dear]! [Now it will die|What have I done]!" {h.he} [cried|said].')
    w.paragraph()
    w.say("{f} [came by|came to visit|looked over the fence]. \"[A seed needs time|Seeds do not like to be hurried|You must wait],\" {f.he} said.", '"[What is wrong|Why are you crying]?" asked {f}. {h} told {f.him}. "[A seed needs time|Seeds grow slowly]," said {f}.')
    w.say("{f} [showed|helped] {h} [how to plant it again|to put fresh earth on it]. \"[Now a little water each day|Give it sun and water], and wait.\"", "Together they [planted it again|put it back in soft earth], and {f} told {h} [a story about trees|funny stories] while they waited.")
    w.fact("Who helped {h}?", "{f} the {f.kind} helped {h}.", "{f}")
    w.say("{h} waited for [many days|three weeks|a long time]. [It was hard, but {h.he} did it.|{h.he} gave it a little water each day.]", "Rain came, and sun came, and {h} learned to wait.")
    w.say("Then, one morning, there was a [small |tiny ]green leaf! [In summer|After some time], there was a [big|beautiful|fine] {plant} {place}.", "And one [warm|sunny] morning, a green leaf looked out of the earth. By [summer|autumn] it was a [fine|beautiful] {plant}.")
    w.maybe("{h} and {f} [sat in front of it|danced around it] and were [proud|happy].", '"[It was worth the wait|Look how big it is]!" said {h}.', "{h} gave the first seeds to {f} to say thank you.")
    w.fact("How did the story end?", "{h} waited, and a {plant} grew.", "{plant}", "grew")
    w.learned(w.phrase("good things [take|need] time", "[waiting is also work|you cannot hurry a seed]", "[care is better than haste|patience makes things grow]"))
    w.farewell()
