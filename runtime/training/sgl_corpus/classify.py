"""Category (c): labels, sentiment, yes/no, judging and comparing texts, labels taught by example."""

from __future__ import annotations

from . import layout, words
from .core import BOS, Chat, Document, Phrases, Rng, ask, capital
from .domains import DOMAINS, ENUMS, Fact, made_up_record, record_facts
from .prose import filler, sentence
from .values import KINDS, Enum, adjective, invented, noun, phrase

_TOPIC_TEXT = """
billing | invoices and payments | I was charged [twice|too much] on my [bill|invoice]. ; The invoice [shows|has] the wrong amount. ; My credit card payment [failed|was declined]. ; Please explain the fee on my bill. ; Where is my receipt for the payment? ; I want to change how I pay my bills. ; You billed me for something I never bought.
technical | problems with the software | The app [crashes|freezes] [all the time|when I open it]. ; I get an error message when I log in. ; The screen stays black after the update. ; The program does not start any more. ; My computer cannot connect to your server. ; There is a bug in the new version. ; The download stops halfway every time.
sales | buying and prices of new products | I [would like|want] to buy [ten|more] licenses. ; Do you offer a discount for large orders? ; How much does the new model cost? ; Can I get a quote for my company? ; We are interested in your products. ; Please send me your price list. ; I want to upgrade to the bigger plan.
shipping | delivery of parcels | My [parcel|package] has not arrived[ yet|]. ; The delivery is [late|delayed]. ; The courier left the parcel at the wrong door. ; When will you ship my order? ; The tracking page shows nothing. ; The box was damaged on the way. ; Can you deliver it to another address?
returns | sending things back and refunds | I want to return the [shoes|lamp|jacket]. ; How do I send it back? ; I would like my money back. ; The refund has not come yet. ; It does not fit, can I exchange it? ; Where do I get a return label? ; I changed my mind and want to give it back.
account | user accounts and passwords | I forgot my password. ; My account is locked. ; Please delete my account. ; How do I change my user name? ; I cannot sign in to my profile. ; Someone else used my login. ; I want to change the email of my account.
sports | games and athletes | The team won the [match|game|final] [last night|by two goals]. ; The striker scored twice in the second half. ; She broke the record in the marathon. ; The coach is happy with the players. ; The tennis star lost in three sets. ; The fans cheered in the stadium. ; The championship starts next month.
politics | government and elections | The parliament voted on the new law. ; The president met the prime minister. ; The election takes place in May. ; The senator gave a speech about taxes. ; The mayor wants a new city council. ; The party lost many votes. ; The government changed its policy.
business | companies and markets | The company [reported|announced] higher profits. ; Shares fell on the stock market. ; The bank raised its interest rate. ; Two firms agreed on a merger. ; The startup found new investors. ; Exports grew in the last quarter. ; The factory will hire more workers.
science | research and discoveries | Researchers discovered a new planet. ; The study was published in a journal. ; Scientists tested the vaccine in the lab. ; The experiment confirmed the theory. ; A telescope took pictures of a distant galaxy. ; Biologists found an unknown species. ; The physicists measured the particle.
weather | rain, wind and temperature | Heavy rain is expected [tomorrow|tonight]. ; The storm moved over the coast. ; It will be sunny and warm. ; Snow fell in the mountains. ; Strong winds are coming from the north. ; Temperatures drop below zero. ; There was thunder and lightning all night.
food | cooking and eating | Add the onions and stir the soup. ; Bake the cake for an hour. ; The restaurant serves fresh fish. ; This pasta tastes delicious. ; Chop the carrots and the garlic. ; I had a salad and bread for lunch. ; The chef cooked a spicy stew.
travel | trips and holidays | We flew to the island for a week. ; The hotel had a view of the beach. ; The train trip through the mountains was long. ; Our tour guide showed us the castle. ; I packed my suitcase for the holiday. ; We visited three countries in ten days. ; The passport control took two hours.
music | songs and concerts | The band played its new song. ; The singer has a wonderful voice. ; The orchestra opened the concert. ; Her new album came out. ; He plays the guitar and the drums. ; The melody stays in your head. ; The choir sang all evening.
health | illness and doctors | I have a headache and a fever. ; The doctor gave me some pills. ; The nurse took my blood pressure. ; My knee hurts after running. ; The hospital is full of patients. ; She has a bad cough and a cold. ; Take the medicine twice a day.
education | schools and learning | The students wrote an exam. ; The teacher explained the lesson. ; The university offers new courses. ; He did his homework. ; The school got a new library. ; The professor gave a lecture. ; The pupils learn to read.
movies | films and actors | The film won an award. ; The actor plays a detective. ; We saw the movie in the cinema. ; The director shot the scene twice. ; The trailer looks great. ; The actress starred in a comedy. ; The sequel comes out in spring.
jobs | work and applications | I am applying for the position. ; Please find my resume attached. ; She was invited to a job interview. ; He got a promotion and a raise. ; The office is looking for an assistant. ; I quit my job last month. ; My boss gave me a day off.
housing | flats and houses | The apartment has three rooms. ; The rent goes up next year. ; The roof of the house is leaking. ; We moved into a new flat. ; The landlord fixed the heating. ; The kitchen and the bathroom are new. ; Our neighbors are selling their house.
animals | pets and wildlife | The dog barks at the cat. ; The horse ran over the field. ; A fox came into the garden. ; The birds built a nest. ; My rabbit eats carrots. ; The elephant drank from the river. ; The vet looked at our puppy.
cars | driving and vehicles | The engine of my car makes a noise. ; I need new tires. ; The truck stopped at the traffic light. ; He drove too fast on the highway. ; The car needs more fuel. ; The brakes were repaired in the garage. ; She bought an electric car.
fashion | clothes and style | She wore a red dress and a hat. ; The jacket is made of leather. ; These shoes are in style. ; The designer showed a new collection. ; I bought a pair of trousers. ; The shirt comes in three colors. ; Scarves are popular this winter.
garden | plants and gardening | The roses are in bloom. ; Water the plants every day. ; I planted tomatoes and beans. ; The hedge must be cut. ; The tree lost its leaves. ; We mow the lawn on Saturdays. ; Seeds need good soil.
family | relatives and children | My sister had a baby. ; Our grandmother turned ninety. ; The children played with their cousins. ; My parents celebrate their wedding day. ; His brother came to visit. ; Our son started to walk. ; The whole family met at my aunt's place.
spam | unwanted advertising and tricks | You have won a prize, click here now! ; Get rich quick with this secret trick! ; Claim your free gift card today! ; Cheap pills, no prescription! ; You were selected to receive a million dollars! ; Act now, this offer ends tonight! ; Hot deals, buy one and get two free!
greeting | hello and goodbye | Hello, how are you? ; Good morning to you! ; Hi there, nice to meet you. ; Hey, what is up? ; Good evening, everyone. ; Greetings from afar! ; Hi, long time no see!
complaint | unhappy customers | This is not acceptable at all! ; I am very unhappy with your service. ; I waited an hour and nobody helped me. ; Your staff was rude to me. ; I will never come back again. ; I demand an apology. ; What a terrible experience.
praise | happy customers | Thank you for the wonderful service! ; Your team did a fantastic job. ; I am so happy with it. ; The staff was very friendly and helpful. ; I will recommend you to all my friends. ; Best shop in town! ; You made my day.
question | people who want to know something | What are your opening hours? ; Do you have this in blue? ; How does this work? ; Where is your shop? ; Can you tell me more about it? ; When does the course begin? ; Who can help me with this?
meeting | appointments and dates | Can we meet on Monday at ten? ; The meeting is moved to Friday. ; Let us have a call tomorrow. ; I put it in the calendar. ; The appointment is at three o'clock. ; Are you free next week to talk? ; The conference room is booked.
"""
_TOPIC_GRAMMAR = """
billing | [My|Your|The last|The monthly|This] [bill|invoice|payment|receipt|charge] [is wrong|was too high|has an error|needs to be explained|was made twice].
technical | [The app|Your software|My computer|The program|The new version] [crashes|freezes|shows an error|does not start|has a bug|cannot connect] [again|all the time|since the update|every morning].
sales | [We want|I would like|My company wants|Our team plans] to [buy|order|purchase] [more licenses|the new model|your bigger plan|a large number of products].
shipping | [My parcel|The package|The delivery|Our shipment|The courier] [is late|never came|went to the wrong address|was damaged on the way|has been delayed].
returns | [I want|We would like|She asked] to [return|send back|exchange] [the shoes|a jacket|this lamp|the wrong item|my purchase].
account | [My|The|Our] [account|password|login|profile|user name] [is locked|must be changed|does not work|was deleted|has to be reset].
sports | [The team|The striker|Our coach|The goalkeeper|The tennis star|The runner] [won the final|lost the match|broke the record|scored a goal|trained in the stadium] [yesterday|last night|again].
politics | [The president|The government|The parliament|A senator|The mayor|The opposition] [passed a law|lost the election|gave a speech on taxes|voted on the reform|met the foreign minister].
business | [The company|The bank|A startup|The factory|The chief executive] [reported profits|bought its rival|fell on the stock market|hired new workers|raised its prices].
science | [Researchers|Scientists|Physicists|A team of biologists|Astronomers] [discovered|studied|measured|observed] [a new planet|a rare particle|an unknown species|the gene|a distant galaxy].
weather | [Heavy rain|Strong wind|Snow|Thick fog|A thunderstorm] [is expected|will come|moved in|stays] [tonight|tomorrow|over the coast|in the mountains|until the weekend].
food | [Stir|Chop|Cook|Serve|Taste] the [soup|onions|pasta|stew|sauce|carrots] [slowly|with salt|for ten minutes|with fresh bread].
travel | [We flew|They traveled|She went|My family drove] to [the island|the beach|a famous castle|three countries|the old town] [for a week|on holiday|with a tour guide|last summer].
music | [The band|The singer|The orchestra|A guitarist|The choir] [played|sang|recorded|performed] [a new song|the whole album|an old melody|at the concert].
health | [The doctor|A nurse|The patient|My grandmother] [has a fever|took the pills|talked about the illness|measured the blood pressure|left the hospital].
education | [The teacher|A student|The professor|The pupils|Our school] [wrote the exam|gave a lecture|did the homework|started a new course|learned to read].
movies | [The film|The actor|The director|An actress|The sequel] [won an award|got bad reviews|came to the cinema|shot the last scene|plays a detective].
jobs | [I|My friend|She|The applicant] [applied for the position|sent a resume|had a job interview|got a promotion|asked for a raise] [last month|on Monday|again].
housing | [The apartment|Our house|The flat|The landlord's place] [has three rooms|needs a new roof|is for rent|has a small kitchen|costs too much rent].
animals | [The dog|A cat|The horse|Our rabbit|A fox|The bird] [barked|ran away|sleeps|ate everything|hid] [in the barn|near its nest|with its young|at the zoo].
cars | [My car|The truck|Her old van|The electric car] [needs|got|lost] [new tires|a new engine|more fuel|better brakes|a wheel].
fashion | [The designer|She|The model|My sister] [wore|showed|bought] [a red dress|leather shoes|the new collection|a silk scarf|a pair of trousers].
garden | [The roses|The tomatoes|My plants|The hedge|The lawn] [must be watered|are in bloom|need good soil|grow well|must be cut] [in spring|every week|this summer].
family | [My sister|Our grandmother|His brother|Their son|My aunt] [had a baby|turned ninety|got married|came to visit|celebrated a birthday] [at home|with the children|last Sunday].
spam | [You have won|Claim|Get|Click here for] [a free prize|a million dollars|cheap pills|a secret trick|your free gift card] [now|today only|before midnight]!
greeting | [Hello|Hi|Good morning|Hey|Good evening] [there|everyone|my friend|to you all], [how are you|nice to see you|long time no see|what is up]?
complaint | [Your service|The staff|This experience|The waiter] was [terrible|rude|not acceptable|a disgrace] [and I am very unhappy|and I demand an apology|and nobody helped me].
praise | [Your team|The staff|Everyone|The service] was [wonderful|fantastic|so friendly|very helpful], [thank you so much|I will recommend you|you made my day|best shop in town].
question | [Can you tell me|Do you know|I would like to know] [where|when|how] [your shop opens|the course begins|this works|I can find you]?
meeting | [The meeting|Our call|The appointment|The conference] [is moved to|takes place on|starts on|was planned for] [Friday|Monday at ten|next week|Thursday at three].
"""
_TOPICS: dict[str, tuple[str, Phrases]] = {}
_GRAMMAR = dict(
    tuple(part.strip() for part in line.split("|", 1)) for line in _TOPIC_GRAMMAR.strip().splitlines()
)
for _line in _TOPIC_TEXT.strip().splitlines():
    _name, _about, _says = (part.strip() for part in _line.split("|", 2))
    # The grammar line stands more often: its wordings are many, and one in eight of them is held out.
    _TOPICS[_name] = (_about, Phrases("\n".join([*_says.split(" ; "), *[_GRAMMAR[_name]] * 9])))
_CLASHES = ({"complaint", "returns", "shipping", "billing", "technical"}, {"praise", "food", "travel", "movies", "music"}, {"question", "sales", "account", "billing",
            "shipping", "technical", "returns", "meeting", "greeting"}, {"jobs", "business", "meeting", "education"}, {"garden", "animals", "food"}, {"sales", "business"},
            {"spam", "sales"}, {"greeting", "question"}, {"family", "animals", "education"}, {"travel", "housing"}, {"politics", "business"}, {"health", "family"})  # fmt: skip

_CLASSIFY = Phrases("""
    Classify the {thing} as one of: {labels}.
    [Which|What] [label|category|class|topic] fits [the|this] {thing}: {labels}?
    [Choose|Pick] [the right|one|the best] [label|category] for the {thing}: {labels}.
    [Label|Sort|Categorize] [the|this] {thing}. [Labels|Categories|Options]: {labels}.
    Is [the|this] {thing} about {ors}?
    [Assign|Give] one of these [labels|categories] to the {thing}: {labels}.
    What is the {thing} about? [Options|Choices|Choose from]: {labels}.
    [Categories|Labels]: {labels}. [Which one is it?|Which one fits best?|Pick one.]
""")
_ONLY = Phrases("""
    Answer with the label only.
    [Answer|Reply] with one word.
    [Only|Just] the label[, please|].
    Give only the label.
""", shared=True)  # fmt: skip


def _join_or(labels: list[str]) -> str:
    return ", ".join(labels[:-1]) + (" or " if len(labels) > 1 else "") + labels[-1]


def _joined(rng: Rng, labels: list[str]) -> str:
    return rng.choice((", ".join(labels), _join_or(labels), " | ".join(labels), "/".join(labels)))


def _no_clash(rng: Rng, count: int) -> list[str]:
    """Topics that a reader would not mix up."""
    names = rng.shuffled(list(_TOPICS))
    out: list[str] = []
    for name in names:
        if not any(name in group and group & set(out) for group in _CLASHES):
            out.append(name)
        if len(out) == count:
            break
    return out


def _topic_text(rng: Rng, name: str, many: int) -> str:
    return " ".join(rng.say(_TOPICS[name][1]) for _ in range(many))


def topic(rng: Rng) -> Document:
    """A text about one of a few topics."""
    labels = _no_clash(rng, rng.int(2, 6))
    target = rng.choice(labels)
    parts = [rng.say(_TOPICS[target][1]) for _ in range(rng.weighted(((4, 1), (4, 2), (3, 3), (1, 4))))]
    if rng.chance(0.2):
        parts.insert(
            rng.below(len(parts) + 1),
            rng.choice(("Hello.", "Hi,", "Thanks!", "Please read this.", "Regards", "Dear all,")),
        )
    thing = rng.choice(("message", "text", "sentence", "e-mail", "note", "article", "paragraph"))
    shown = [capital(label) for label in labels] if rng.chance(0.15) else labels
    answer = capital(target) if shown != labels else target
    if rng.chance(0.2):
        menu = "\n".join(f"- {s}: {_TOPICS[name][0]}" for s, name in zip(shown, labels, strict=True))
        lead = f"{rng.choice(('Labels:', 'Categories:', 'Choose one of these labels for the ' + thing + ':'))}\n{menu}"
    else:
        lead = rng.say(_CLASSIFY, {"thing": thing, "labels": _joined(rng, shown), "ors": _join_or(shown)})
    return _answer(rng, "topic", lead, capital(thing), " ".join(parts), answer)


def _answer(rng: Rng, kind: str, lead: str, mark: str, text: str, answer: str, only: bool = True) -> Document:
    if only and rng.chance(0.7):
        lead = f"{lead} {rng.say(_ONLY)}"
    block = f"{mark}: {text}" if rng.chance(0.7) else text if rng.chance(0.5) else f"{mark}:\n{text}"
    return ask(rng, Chat("classification", kind), lead, block).assistant(answer).done()


_GOOD = words._phrases("""great, wonderful, excellent, perfect, fantastic, lovely, amazing, superb, brilliant, delightful, outstanding, pleasant,
beautiful, impressive, marvelous, first-rate, charming, splendid, terrific, flawless, reliable, comfortable, delicious, friendly""")
_BAD = words._phrases("""terrible, awful, horrible, bad, poor, disappointing, useless, broken, dreadful, disgusting, ugly, unpleasant, cheap and nasty,
rude, boring, dirty, worthless, annoying, miserable, faulty, overpriced, noisy, unreliable, painful, slow and buggy""")
_PLAIN = words._phrases(
    "average, ordinary, okay, standard, usual, fair, typical, acceptable, so-so, middling, unremarkable, normal"
)
_OPINION = Phrases("""
    The {noun} [is|was] {adv}{op}.
    [What|Such] [a|an] {op} {noun}[!|.]
    I [found|find] the {noun} {op}.
    [My|Our] {noun} [turned out|proved] to be {op}.
    {Op} {noun}, {op2} {noun2}.
    The {noun} [looked|seemed|felt] {op} to [me|us].
    [Everything|The whole thing] [was|is] {op}[, really|, I must say|].
    We had a[n|] {op} {noun}.
    For this price, the {noun} is {op}.
    The {noun} and the {noun2} were {op}.
""")
_LOVE = Phrases("""
    I [love|adore] [it|this {noun}]!
    [Highly recommended|I would buy it again|Five stars].
    [Could not be|I could not be] happier.
    It made me [smile|very happy].
    Worth every [penny|cent].
    I am [very satisfied|delighted|impressed].
""", shared=True)  # fmt: skip
_HATE = Phrases("""
    I [hate|regret] [it|this {noun}]!
    [Never again|Do not buy it|One star].
    [I want my money back|What a waste of money].
    It made me [angry|sad].
    [It broke|It fell apart] after a [day|week].
    I am [very disappointed|unhappy|furious].
""", shared=True)  # fmt: skip
_MEH = Phrases("""
    It does [the job|what it should].
    [Nothing|Not much] special.
    [Neither good nor bad|Not great, not terrible].
    It is [what I expected|like all the others].
    I [have no strong feelings|do not mind it].
""", shared=True)  # fmt: skip


def opinion(rng: Rng, mood: str, low: int = 1, high: int = 4) -> str:
    """A review of a mood: positive, negative or neutral."""
    words_of = {"positive": _GOOD, "negative": _BAD, "neutral": _PLAIN}[mood]
    strong = {"positive": _LOVE, "negative": _HATE, "neutral": _MEH}[mood]
    out = []
    for _ in range(rng.int(low, high)):
        if rng.chance(0.3):
            out.append(rng.say(strong, {"noun": noun(rng)}))
            continue
        op, op2 = rng.choice(words_of), rng.choice(words_of)
        adv = (
            rng.choice(("", "", "really ", "very ", "so ", "quite "))
            if mood != "neutral"
            else rng.choice(("", "just ", "quite ", "rather "))
        )
        if mood != "neutral" and rng.chance(0.08):
            other = rng.choice(_BAD if mood == "positive" else _GOOD)
            op, adv = f"not {other}, but {op}", ""
        values = {"noun": noun(rng), "noun2": noun(rng), "adv": adv, "op": op, "op2": op2, "Op": capital(op)}
        out.append(rng.say(_OPINION, values))
    return " ".join(out)


_SENTIMENT = Phrases("""
    What is the sentiment of [this|the] {thing}: {labels}?
    [Is|Was] [this|the] {thing} {ors}?
    Classify the sentiment[ of the {thing}|] as {labels}.
    How does the [writer|customer|author] feel: {labels}?
    [Sentiment|Mood] of the {thing} ({labels})?
    [Decide|Say] whether the {thing} is {ors}.
""")


def sentiment(rng: Rng) -> Document:
    labels = ["positive", "negative"] + (["neutral"] if rng.chance(0.6) else [])
    target = rng.choice(labels)
    labels = rng.shuffled(labels) if rng.chance(0.4) else labels
    thing = rng.choice(("review", "text", "comment", "feedback", "message"))
    names = {label: label for label in labels}
    if rng.chance(0.15):
        names = {"positive": "good", "negative": "bad", "neutral": "mixed"}
    elif rng.chance(0.15):
        names = {label: capital(label) for label in labels}
    shown = [names[label] for label in labels]
    lead = rng.say(_SENTIMENT, {"thing": thing, "labels": _joined(rng, shown), "ors": _join_or(shown)})
    text = opinion(rng, target)
    if rng.chance(0.1):
        text = f"{text} {sentence(rng)}"
    return _answer(rng, "sentiment", lead, capital(thing), text, names[target])


_ENUM_ASK = Phrases("""
    [What|Which] {name} does the {thing} [have|show|mention]: {labels}?
    [Classify|Rate] the {name} [in|of] the {thing}: {labels}.
    {Name} ({labels})?
    [Choose|Pick] the {name}: {labels}.
""")


def enum_label(rng: Rng) -> Document:
    """A label of a known scale (priority, status, ...) from how it is said."""
    name = rng.choice(list(ENUMS))
    enum: Enum = ENUMS[name]
    value = enum.sample(rng)
    options = list(enum.options)
    said = rng.choice(
        (
            f"{capital(name.replace('_', ' '))}: {value.text}.",
            f"It is {value.text}.",
            f"{capital(value.text)}.",
        )
    )
    text = " ".join(rng.shuffled([said, *filler(rng, 0, 4)]))
    label = name.replace("_", " ")
    lead = rng.say(
        _ENUM_ASK, {"name": label, "Name": capital(label), "labels": _joined(rng, options), "thing": "text"}
    )
    return _answer(rng, "enum", lead, "Text", text, str(value.json))


_YES_NO = Phrases("""
    {q} [Answer yes or no.|Yes or no?|Answer with yes or no.|Say yes or no.]
    [Answer|Reply] yes or no: {q}
""", shared=True)  # fmt: skip


def _statement_question(rng: Rng, fact: Fact, text: str) -> str:
    return rng.choice(
        (
            f"Is the {fact.label} {text}?",
            f"Does the text say that the {fact.label} is {text}?",
            f"Is {text} the {fact.label}?",
            f"The {fact.label} is {text}. Is that right?",
        )
    )


def yes_no(rng: Rng) -> Document:
    """A question about a fact of a text; half of them are true."""
    domain = None if rng.chance(0.3) else rng.choice(DOMAINS)
    facts = made_up_record(rng, rng.int(2, 7)) if domain is None else record_facts(rng, domain, rng.int(2, 8))
    text = layout.write(rng, domain, facts, long=rng.chance(0.05))
    flags = [f for f in facts if f.flag]
    if flags and rng.chance(0.6):
        fact = rng.choice(flags)
        q, answer = rng.choice(fact.questions), "yes" if fact.value.json else "no"
    else:
        fact = rng.choice([f for f in facts if not f.flag and not f.options] or facts)
        truth = rng.chance(0.5)
        shown = fact.value.text
        if not truth:
            shown = _other_text(rng, fact, facts)
        q = fact.questions[0] if fact.flag else _statement_question(rng, fact, shown)
        answer = "yes" if (truth if not fact.flag else fact.value.json) else "no"
    lead = rng.say(_YES_NO, {"q": q})
    mark = rng.choice(("Text", "Passage", "Message"))
    if rng.chance(0.15):
        return (
            Chat("classification", "yes_no")
            .system(rng.choice(("Answer yes or no.", "Reply with yes or no only.")))
            .user(f"{mark}: {text}\n\n{q}")
            .assistant(answer)
            .done()
        )
    return _answer(rng, "yes_no", lead, mark, text, answer, only=False)


def _other_text(rng: Rng, fact: Fact, facts: list[Fact]) -> str:
    """A wrong value: of another field of the text, or a fresh one of the same kind of JSON."""
    same = [
        f
        for f in facts
        if f is not fact
        and not f.flag
        and type(f.value.json) is type(fact.value.json)
        and f.value.text != fact.value.text
    ]
    if same and rng.chance(0.5):
        return rng.choice(same).value.text
    kinds = [k for k in KINDS.values() if k.schema == fact.schema]
    for _ in range(8):
        other = rng.choice(kinds).sample(rng).text if kinds else phrase(rng)
        if other != fact.value.text:
            return other
    return phrase(rng)


def taught_labels(rng: Rng) -> Document:
    """Labels without meaning, taught by examples in the prompt: which words go with which label."""
    count = rng.int(2, 3)
    labels = [
        invented(rng, 1, 2) if rng.chance(0.5) else rng.choice("ABCDEFGHXYZ") + str(i) for i in range(count)
    ]
    topics = _no_clash(rng, count)
    shots = [(i, _topic_text(rng, topics[i], 1)) for i in list(range(count)) * rng.int(1, 2)]
    target = rng.below(count)
    shots = rng.shuffled(shots)
    question = _topic_text(rng, topics[target], 1)
    head, tail = rng.choice(
        (("Text: ", "Label: "), ("Input: ", "Class: "), ("Message: ", "Tag: "), ("", "-> "))
    )
    body = "".join(f"{head}{text}\n{tail}{labels[i]}\n\n" for i, text in shots)
    return Document(
        "classification",
        "taught",
        ((f"{BOS}{body}{head}{question}\n{tail}", False), (labels[target] + "\n", True)),
    )


def raw_sentiment(rng: Rng) -> Document:
    """Few-shot sentiment or topic without roles."""
    by_topic = rng.chance(0.4)
    labels = (
        _no_clash(rng, rng.int(2, 4)) if by_topic else ["positive", "negative", "neutral"][: rng.int(2, 3)]
    )
    head, tail = (
        rng.choice((("Review: ", "Sentiment: "), ("Text: ", "Sentiment: "), ("Comment: ", "Label: ")))
        if not by_topic
        else rng.choice((("Text: ", "Topic: "), ("Message: ", "Category: ")))
    )
    segments: list[tuple[str, bool]] = [(BOS, False)] if rng.chance(0.7) else []
    for i in range(rng.int(3, 6)):
        target = labels[i] if i < len(labels) else rng.choice(labels)
        text = _topic_text(rng, target, rng.int(1, 2)) if by_topic else opinion(rng, target, 1, 2)
        segments += [(f"{chr(10) if i else ''}{head}{text}\n{tail}", False), (target + "\n", True)]
    return Document("classification", "raw", tuple(segments))


# --- judging -------------------------------------------------------------------------------------------------------

_LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "politeness": (
        ("Give me that now, you fool.", "Shut up and do it.", "You are useless, do it again.", "Move, idiot.", "I do not care about your excuses, you liar."),
        ("Do it now.", "Send it today.", "Fix this.", "I want it now.", "Answer me."),
        ("Send me the {noun}, please.", "I need the {noun} by {weekday}.", "The {noun} should be changed.", "Let me know about the {noun}."),
        ("Could you please send the {noun}? Thanks.", "Please let me know, thank you.", "Thanks for looking at the {noun}.", "Would you please check the {noun}? Thank you."),
        ("I would be very grateful if you could kindly help me with the {noun}.", "Thank you so much in advance for your kind help, dear colleague.",
         "I am terribly sorry to trouble you, and I truly appreciate your time.", "With my warmest thanks, I kindly ask you for the {noun}."),
    ),
    "urgency": (
        ("There is no hurry at all.", "Any time is fine, even next year.", "It can wait as long as you like."),
        ("Some time this month would be nice.", "When you find the time, have a look.", "In the next weeks is fine."),
        ("Please do it this week.", "By the end of the week would be good.", "In a few days, please."),
        ("I need it today.", "It must be done by tonight.", "Please do it in the next hours."),
        ("This is an emergency, act immediately!", "Right now, everything is down!", "Drop everything and help us this very minute!"),
    ),
    "positivity": (
        ("I hate everything about it.", "It was the worst day of my life.", "An absolute disaster.", "Horrible from start to end."),
        ("I am not happy with it.", "It was rather disappointing.", "I expected more.", "It could have been better."),
        ("It was okay.", "Neither good nor bad.", "It was average.", "Nothing special."),
        ("I liked it.", "It was good.", "A nice result.", "I am pleased with it."),
        ("I love everything about it!", "The best day of my life!", "Absolutely perfect in every way!", "A dream came true!"),
    ),
    "clarity": (
        ("It is, well, sort of the thing, you know, whatever, the stuff.", "Something about something, or not, who knows what.", "Um, things, perhaps, kind of, er, blah."),
        ("It is maybe about the {noun}, or something like that, somehow.", "I guess the {noun} thing is sort of there, perhaps."),
        ("The {noun} is more or less {adj}, I think.", "It has to do with the {noun}, in a way."),
        ("The {noun} is {adj}.", "We changed the {noun} because it was {adj}."),
        ("First, open the {noun}. Second, check that it is {adj}. Third, close it again.", "In short: the {noun} is {adj}. The reason is simple. Here is what to do: replace it."),
    ),
    "formality": (
        ("yo dude, gonna grab the {noun} lol", "nah bro, that {noun} is wack", "lol whatever, c ya"),
        ("Hey, can't make it, gotta run. Talk later!", "Hi guys, the {noun} is cool, right?", "Sure thing, no worries!"),
        ("Hello, I will bring the {noun} tomorrow.", "I looked at the {noun} and it is fine."),
        ("Dear Mr. {last}, I am writing about the {noun}.", "Please find the {noun} attached. Best regards"),
        ("Dear Sir or Madam, I hereby respectfully submit the {noun} for your consideration.", "We herewith confirm receipt of the aforementioned {noun}. Yours faithfully"),
    ),
}  # fmt: skip
_AMOUNT = {"detail": True, "length": True, "brevity": False}
_RATE = Phrases("""
    Rate the {dim} of the {thing} from {low} to {high}.
    How [good|strong|high] is the {dim} of [this|the] {thing}, from {low} to {high}?
    [Score|Judge|Grade] the {thing} on {dim}[, | (]from {low} to {high}[.|.].
    On a scale from {low} to {high}, [rate|score] the {dim}.
    {Dim} ({low}-{high})?
    You are a judge. [Rate|Score] the {dim} of the {thing} from {low} to {high}.
""")
_RUBRIC = Phrases("""
    {high} means very high {dim}, {low} means none.
    {low} is the lowest and {high} the highest {dim}.
    {low} = very low, {high} = very high.
""", shared=True)  # fmt: skip
_NUMBER_ONLY = Phrases("""
    Answer with the number only.
    [Only|Just] the number[, please|].
    Reply with one number.
""", shared=True)  # fmt: skip
DIMENSIONS = (*_LEVELS, *_AMOUNT)
_MIXED = ("politeness", "urgency", "positivity")


def judged_text(rng: Rng, dim: str, level: int) -> str:
    """A text whose level (0..4) of a dimension is known by construction."""
    if dim in _AMOUNT:
        step = level if _AMOUNT[dim] else 4 - level
        count = (1, 2, 4, 6, 9)[step]
        return " ".join(sentence(rng) for _ in range(count))
    phrases = _LEVELS[dim][level]
    values = {
        "noun": noun(rng),
        "adj": adjective(rng),
        "weekday": rng.choice(words.WEEKDAYS),
        "last": KINDS["last"].sample(rng).text,
    }
    picked = rng.sample(phrases, rng.int(1, min(2, len(phrases))))
    if dim in _MIXED and rng.chance(0.7):  # what is said of another dimension must not count
        others = rng.sample([other for other in _MIXED if other != dim], rng.int(1, 2))
        picked = rng.shuffled([*picked, *(rng.choice(rng.choice(_LEVELS[other])) for other in others)])
    text = " ".join(picked)
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    if dim == "formality":
        return text
    return f"{text} {sentence(rng)}" if rng.chance(0.2) and dim not in {"clarity", "politeness"} else text


_WORDS3 = ("low", "low", "medium", "high", "high")
_ADVERBS5 = ("not at all", "a little", "moderately", "quite", "very")
_ADJECTIVE_OF = {"politeness": "polite", "urgency": "urgent", "positivity": "positive", "clarity": "clear", "formality": "formal", "detail": "detailed",
                 "length": "long", "brevity": "brief"}  # fmt: skip


def judge(rng: Rng) -> Document:
    """A score of a dimension: a number, a word, or a sentence and a score."""
    dim, level = rng.choice(DIMENSIONS), rng.below(5)
    thing = rng.choice(("text", "message", "essay", "answer", "letter", "note"))
    text = judged_text(rng, dim, level)
    roll = rng.below(10)
    if roll < 2:
        lead = rng.choice(
            (
                f"Is the {dim} of the {thing} low, medium or high?",
                f"Judge the {dim}: low, medium or high.",
                f"{capital(dim)} of the {thing} (low / medium / high)?",
            )
        )
        return _answer(rng, "judge_word", lead, capital(thing), text, _WORDS3[level])
    if roll < 4:
        lead = rng.choice(
            (
                f'Judge the {dim} of the {thing}: give one sentence, then "Score: N" with N from 1 to 5.',
                f'How {_ADJECTIVE_OF[dim]} is the {thing}? Give a reason, then "Score: N" (1-5).',
            )
        )
        answer = f"The {thing} is {_ADVERBS5[level]} {_ADJECTIVE_OF[dim]}.\nScore: {level + 1}"
        return _answer(rng, "judge_reason", lead, capital(thing), text, answer, only=False)
    high = 10 if rng.chance(0.3) else 5
    values = {"dim": dim, "Dim": capital(dim), "thing": thing, "low": "1", "high": str(high)}
    lead = rng.say(_RATE, values).replace("(from", "from")
    if rng.chance(0.3):
        lead += " " + rng.say(_RUBRIC, values)
    if rng.chance(0.8):
        lead += " " + rng.say(_NUMBER_ONLY)
    return _answer(rng, "judge", lead, capital(thing), text, str((level + 1) * (high // 5)), only=False)


def judge_many(rng: Rng) -> Document:
    """Several dimensions of the same text, one turn each or as JSON."""
    dim = rng.choice(list(_LEVELS))
    level = rng.below(5)
    text = judged_text(rng, dim, level)
    if rng.chance(0.5):
        answer = f'{{"{dim}":{level + 1}}}'
        return (
            ask(
                rng,
                Chat("classification", "judge_json"),
                f"Rate the {dim} of the text from 1 to 5 as JSON.",
                f"Text: {text}",
            )
            .assistant(answer)
            .done()
        )
    chat = Chat("classification", "judge").user(f"Text: {text}")
    chat.part("<|assistant|>", False).part(f"{capital(dim)}: ", False).part(str(level + 1) + "<|end|>", True)
    return chat.done()


def compare(rng: Rng) -> Document:
    """Which of two texts has more of something."""
    dim = rng.choice(DIMENSIONS)
    low = rng.below(3)
    high = rng.int(low + 2, 4)
    a, b = (low, high) if rng.chance(0.5) else (high, low)
    names = rng.choice((("A", "B"), ("A", "B"), ("1", "2")))
    adj = _ADJECTIVE_OF[dim]
    q = rng.choice(
        (
            f"Which text is more {adj}, {names[0]} or {names[1]}?",
            f"Compare the {dim} of {names[0]} and {names[1]}. Which is higher?",
            f"Pick the more {adj} text: {names[0]} or {names[1]}.",
        )
    )
    lead = f"{q} {rng.choice(('Answer with the letter only.', 'Only the letter.', 'Answer with one letter.')) if names[0] == 'A' else rng.choice(('Answer with the number only.', 'Only the number.'))}"
    body = f"{names[0]}: {judged_text(rng, dim, a)}\n{names[1]}: {judged_text(rng, dim, b)}"
    return (
        ask(rng, Chat("classification", "compare"), lead, body)
        .assistant(names[0] if a > b else names[1])
        .done()
    )


def several_turns(rng: Rng) -> Document:
    """One text, then questions of different kinds about it."""
    mood = rng.choice(("positive", "negative"))
    text = opinion(rng, mood, 2, 4)
    chat = (
        Chat("classification", "turns")
        .user(f"Review: {text}\n\nIs it positive or negative? Answer with one word.")
        .assistant(mood)
    )
    checks = [("Would the writer buy it again? Answer yes or no.", "yes" if mood == "positive" else "no"), ("Is the writer happy? Answer yes or no.", "yes" if mood == "positive" else "no"),
              ("Is it a complaint? Yes or no?", "no" if mood == "positive" else "yes")]  # fmt: skip
    for q, a in rng.sample(checks, rng.int(1, 2)):
        chat.user(q).assistant(a)
    return chat.done()


def long_topic(rng: Rng) -> Document:
    """A long text about one topic."""
    labels = _no_clash(rng, rng.int(2, 5))
    target = rng.choice(labels)
    text = _topic_text(rng, target, rng.int(12, 60))
    lead = rng.say(_CLASSIFY, {"thing": "text", "labels": _joined(rng, labels), "ors": _join_or(labels)})
    return _answer(rng, "topic_long", lead, "Text", text, target)
