"""Category (f): plans, lists, sums, search over thoughts, rewriting, few-shot patterns, short letters, talk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import layout, words
from .core import BOS, EOS, THINK, THINK_END, Chat, Document, Phrases, Rng, ask, capital
from .domains import DOMAINS, record_facts
from .prose import babble, filler, paragraphs, sentence
from .values import (
    KINDS,
    adjective,
    city,
    company,
    country,
    first_name,
    invented,
    noun,
    person,
    phrase,
    spell,
    text_value,
    verb,
)

CATEGORY = "misc"

_PLAN_TEXT = """
plan a picnic; organize a picnic | Choose a date and a place. | Invite the guests. | Make a list of food. | Buy bread, fruit and drinks. | Pack the basket and the blanket. | Check the weather. | Clean up after eating.
write a letter; write an email | Decide what you want to say. | Write the greeting. | Explain the reason. | Ask a clear question. | Add a friendly closing. | Check the spelling. | Send it.
bake a cake; make a cake | Read the recipe. | Buy the ingredients. | Heat the oven. | Mix flour, sugar and eggs. | Pour the dough into a pan. | Bake it for an hour. | Let it cool.
clean the house; tidy up the home | Open the windows. | Put things back in place. | Dust the shelves. | Wash the dishes. | Vacuum the floor. | Take out the trash. | Water the plants.
prepare a meeting; organize a meeting | Set the goal. | Choose a time. | Invite the people. | Write the agenda. | Book a room. | Prepare the slides. | Take notes.
learn a language; study a new language | Learn the most common words. | Listen every day. | Repeat sentences aloud. | Talk to native speakers. | Read simple books. | Write a diary. | Review old lessons.
plan a trip; organize a vacation; prepare a journey | Pick a destination. | Set a budget. | Book the tickets. | Reserve a hotel. | Pack the suitcase. | Copy the passport. | Check the weather.
move to a new house; change apartments | Sort your things. | Get boxes. | Hire a truck. | Pack room by room. | Label every box. | Change your address. | Clean the old rooms.
fix a bicycle; repair a bike | Look for the problem. | Get the tools. | Take off the wheel. | Replace the broken part. | Oil the chain. | Test the brakes. | Go for a short ride.
plant a garden; start a garden | Choose a sunny place. | Loosen the soil. | Buy seeds. | Plant the seeds. | Water them every day. | Remove the weeds. | Harvest in autumn.
save money; spend less money | Write down what you spend. | Make a budget. | Cancel what you do not use. | Cook at home. | Compare prices. | Put money aside each month. | Set a goal.
find a job; get a new job | Write your resume. | Look for openings. | Ask your friends. | Send applications. | Prepare for the interview. | Follow up after a week. | Compare the offers.
test a program; check software | Write down what it should do. | Prepare the inputs. | Run the program. | Compare the results. | Report every bug. | Fix the errors. | Run it again.
host a party; give a party | Choose a date. | Send invitations. | Plan the music. | Buy food and drinks. | Decorate the rooms. | Welcome the guests. | Clean up.
get fit; get in shape | See a doctor first. | Set a small goal. | Walk every day. | Eat more vegetables. | Sleep eight hours. | Train with a friend. | Write down your progress.
paint a room; repaint a wall | Choose a color. | Cover the floor. | Clean the walls. | Tape the edges. | Put on the first coat. | Let it dry. | Put on the second coat.
train a dog; teach a dog | Start with one command. | Use treats. | Keep it short. | Repeat every day. | Praise good behavior. | Be patient. | Practice outside.
write a report; prepare a report | Collect the facts. | Make an outline. | Write the introduction. | Describe the results. | Draw a conclusion. | Check the numbers. | Ask for feedback.
run a meeting; lead a discussion | Welcome everyone. | State the goal. | Keep to the agenda. | Let everyone speak. | Decide on actions. | Name who does what. | End on time.
solve a problem; deal with a problem | Describe the problem. | Find the cause. | Collect ideas. | Compare the ideas. | Choose the best one. | Try it out. | Check the result.
"""
_PLANS = [
    ([t.strip() for t in line.split("|")[0].split(";")], [s.strip() for s in line.split("|")[1:]])
    for line in _PLAN_TEXT.strip().splitlines()
]
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
_LIST_ASK = Phrases("""
    [List|Give|Write] {n} steps to {goal}.
    [Give|Write] a plan of {n} steps to {goal}.
    How do I {goal}? [List|Give] {n} steps.
    [Write|Give] an outline of {n} points on how to {goal}.
    [Name|Propose] {n} [things|steps] to do to {goal}.
    Plan: {goal}. {N} steps[, please|].
""")


def plan(rng: Rng) -> Document:
    """Numbered steps towards a goal, then sometimes one of them expanded."""
    goals, steps = rng.choice(_PLANS)
    goal, count = rng.choice(goals), rng.int(2, 5)
    shown = _COUNTS[count] if rng.chance(0.6) else str(count)
    chosen = steps[:count]
    answer = "\n".join(f"{i}. {s}" for i, s in enumerate(chosen, 1))
    chat = (
        Chat(CATEGORY, "plan")
        .user(rng.say(_LIST_ASK, {"n": shown, "N": capital(shown), "goal": goal}))
        .assistant(answer)
    )
    if rng.chance(0.5):
        at = rng.below(count)
        chat.user(
            rng.choice(
                (
                    f"Write one sentence on point {at + 1}: {chosen[at]}",
                    f"Expand point {at + 1}: {chosen[at]}",
                    f"Say more about step {at + 1}.",
                )
            )
        )
        chat.assistant(_expanded(goal, chosen[at]))
    return chat.done()


def _expanded(goal: str, step: str) -> str:
    return f"To {goal}, it is important to {step[:1].lower()}{step[1:-1]}, so take enough time for it."


def expand(rng: Rng) -> Document:
    """One point of an outline becomes a sentence."""
    goals, steps = rng.choice(_PLANS)
    goal, at = rng.choice(goals), rng.below(5)
    head = rng.choice(
        (
            f"Topic: {goal}\nOutline:\n"
            + "\n".join(f"{i}. {s}" for i, s in enumerate(steps[:5], 1))
            + "\n\n",
            f"Goal: {goal}\n\n",
        )
    )
    return (
        Chat(CATEGORY, "expand")
        .user(f"{head}Write one sentence on point {at + 1}: {steps[at]}")
        .assistant(_expanded(goal, steps[at]))
        .done()
    )


def _operation(rng: Rng) -> tuple[str, int]:
    sign = rng.choice("++--*")
    if sign == "*":
        a, b = rng.int(2, 12), rng.int(2, 12)
        return f"{a} * {b}", a * b
    a, b = (rng.int(1, 99), rng.int(1, 99)) if rng.chance(0.7) else (rng.int(1, 20), rng.int(1, 20))
    if sign == "-" and a < b:
        a, b = b, a
    return f"{a} {sign} {b}", a + b if sign == "+" else a - b


_SUM = Phrases("""
    What is {e}?
    [Calculate|Compute|Work out] {e}.
    {e} = ?
    How much is {e}?
    {e}
""", shared=True)  # fmt: skip


def sums(rng: Rng) -> Document:
    expression, result = _operation(rng)
    shown = (
        expression
        if rng.chance(0.7)
        else expression.replace("*", "times").replace("+", "plus").replace("-", "minus")
    )
    lead = rng.say(_SUM, {"e": shown})
    if rng.chance(0.3):
        lead += " Answer with the number only."
    if rng.chance(0.15):
        return (
            Chat(CATEGORY, "think")
            .system("Think before you answer.")
            .user(lead)
            .assistant(f"{THINK}{expression} = {result}{THINK_END}{result}")
            .done()
        )
    return Chat(CATEGORY, "sum").user(lead).assistant(str(result)).done()


def raw_sums(rng: Rng) -> Document:
    segments: list[tuple[str, bool]] = [(BOS, False)]
    for _ in range(rng.int(2, 6)):
        expression, result = _operation(rng)
        segments += [(f"{expression} = ", False), (f"{result}\n", True)]
    return Document(CATEGORY, "raw_sum", tuple(segments))


_STORY = (
    ("{who} has {a} boxes with {b} {thing} each and {gets} {c} more {thing}.", "*+"),
    ("{who} buys {a} bags of {b} {thing} and gives away {c} {thing}.", "*-"),
    ("There are {a} {thing} on the table. {who} brings {b} {thing} and takes {c} {thing} away.", "+-"),
    ("{who} had {a} {thing}. {who} lost {b} {thing} and then found {c} {thing}.", "-+"),
    ("{who} has {a} {thing}, {other} has {b} {thing} and a friend has {c} {thing}.", "++"),
    ("{a} people bring {b} {thing} each. {c} {thing} are eaten.", "*-"),
)


def word_problem(rng: Rng) -> Document:
    """Two steps of arithmetic in a story, worked line by line."""
    story, signs = rng.choice(_STORY)
    first = 0
    while True:
        a, b, c = (
            (rng.int(2, 9), rng.int(2, 9), rng.int(1, 20))
            if signs[0] == "*"
            else (rng.int(10, 60), rng.int(2, 40), rng.int(1, 30))
        )
        first = a * b if signs[0] == "*" else a + b if signs[0] == "+" else a - b
        last = first + c if signs[1] == "+" else first - c
        if first > 0 and last >= 0:
            break
    things = words.plural(
        rng.choice(
            (
                "apple",
                "pen",
                "book",
                "cookie",
                "coin",
                "stamp",
                "card",
                "egg",
                "ball",
                "cup",
                "stone",
                "key",
                noun(rng),
            )
        )
    )
    text = story
    for key, value in {
        "who": first_name(rng),
        "other": first_name(rng),
        "a": str(a),
        "b": str(b),
        "c": str(c),
        "thing": things,
        "gets": rng.choice(("buys", "gets", "finds")),
    }.items():
        text = text.replace("{" + key + "}", value)
    lines = f"{a} {signs[0]} {b} = {first}\n{first} {signs[1]} {c} = {last}"
    question = rng.choice(
        (f"How many {things} are there?", f"How many {things} is that?", f"How many {things} in the end?")
    )
    roll = rng.below(10)
    if roll < 6:
        hint = rng.choice(
            ("Think step by step.", "Work step by step.", "Solve it step by step.", "Show the steps.")
        )
        return (
            Chat(CATEGORY, "steps")
            .user(f"{text} {question} {hint}")
            .assistant(f"{lines}\nAnswer: {last}")
            .done()
        )
    if roll < 8:
        return (
            Chat(CATEGORY, "think")
            .system("Think before you answer.")
            .user(f"{text} {question}")
            .assistant(f"{THINK}{lines.replace(chr(10), '; ')}{THINK_END}{last}")
            .done()
        )
    return (
        Chat(CATEGORY, "steps")
        .system("Solve the problem step by step.")
        .user(f"{text} {question}")
        .assistant(f"{lines}\nAnswer: {last}")
        .done()
    )


def proposals(rng: Rng) -> Document:
    """Tree-of-thought pieces: propose a step on numbers, judge whether a target can be reached, check a result."""
    numbers = [rng.int(1, 13) for _ in range(rng.int(2, 4))]
    head = f"Numbers: {' '.join(map(str, numbers))}."
    roll = rng.below(3)
    if roll == 0:
        i, j = rng.sample(range(len(numbers)), 2)
        sign = rng.choice("+*-")
        a, b = numbers[i], numbers[j]
        a, b = (b, a) if sign == "-" and a < b else (a, b)
        result = a + b if sign == "+" else a * b if sign == "*" else a - b
        left = [result, *(n for k, n in enumerate(numbers) if k not in (i, j))]
        word = {"+": "adds", "*": "multiplies", "-": "subtracts"}[sign]
        ask_it = f"{head} Target: {rng.int(10, 40)}. Propose a step that {word} {a} and {b}."
        return (
            Chat(CATEGORY, "propose")
            .user(ask_it)
            .assistant(f"{a} {sign} {b} = {result} (left: {' '.join(map(str, left))})")
            .done()
        )
    a, b = numbers[0], numbers[1]
    results = {a + b, a * b, abs(a - b)}
    if roll == 1:
        target = rng.choice(sorted(results)) if rng.chance(0.5) else rng.int(60, 300)
        while target in results and target > 59:
            target += 1
        hopeless = target not in results
        ask_it = (
            f"Numbers: {a} {b}. Target: {target}. Is the target still reachable? Answer sure or impossible."
        )
        return Chat(CATEGORY, "reach").user(ask_it).assistant("impossible" if hopeless else "sure").done()
    right = rng.chance(0.5)
    sign = rng.choice("+*")
    true = a + b if sign == "+" else a * b
    shown = true if right else true + rng.choice((-2, -1, 1, 2, 10))
    return (
        Chat(CATEGORY, "check")
        .user(f"Is this right: {a} {sign} {b} = {shown}? Answer yes or no.")
        .assistant("yes" if right else "no")
        .done()
    )


_QUALITIES = (("cheap", "expensive"), ("near", "far away"), ("fast", "slow"), ("quiet", "loud"), ("easy", "hard"), ("safe", "dangerous"), ("new", "old"),
              ("clean", "dirty"), ("healthy", "unhealthy"), ("warm", "cold"))  # fmt: skip


def best_option(rng: Rng) -> Document:
    """Options with qualities; the one that meets all wishes is the best."""
    wishes = rng.sample(_QUALITIES, rng.int(1, 2))
    count = rng.int(2, 4)
    best = rng.below(count)
    options = []
    for i in range(count):
        marks = [w[0] if i == best else w[1] for w in wishes]
        if i != best and len(wishes) == 2 and rng.chance(0.5):
            marks[0] = wishes[0][0]
        options.append(f"{capital(phrase(rng))}: {' and '.join(marks)}")
    goal = " and ".join(w[0] for w in wishes)
    lettered = rng.chance(0.3)
    rows = "\n".join(f"{'ABCD'[i] if lettered else i + 1}. {o}" for i, o in enumerate(options))
    tail = rng.choice(
        (
            "Answer with the {k} of the best option.",
            "Which option is best? Only the {k}.",
            "Choose the best option. Answer with the {k} only.",
        )
    ).replace("{k}", "letter" if lettered else "number")
    return (
        Chat(CATEGORY, "best")
        .user(f"Goal: {goal}.\nOptions:\n{rows}\n{tail}")
        .assistant("ABCD"[best] if lettered else str(best + 1))
        .done()
    )


def _any_text(rng: Rng) -> str:
    roll = rng.below(6)
    if roll < 2:
        return sentence(rng)
    if roll < 4:
        return babble(rng, rng.int(1, 12))
    return text_value(rng) if roll == 4 else f"{person(rng)}, {rng.int(1, 999)} {phrase(rng)}"


def rewrite(rng: Rng) -> Document:
    """Copying and small changes of text."""
    text = _any_text(rng)
    items = [noun(rng) if rng.chance(0.7) else invented(rng) for _ in range(rng.int(2, 7))]
    tasks = (
        ("Repeat exactly", text, text), ("Copy the text", text, text), ("Say this again", text, text), ("Echo", text, text),
        ("Rewrite in upper case", phrase(rng).lower(), ""), ("Rewrite in lower case", phrase(rng).upper(), ""),
        ("Join as a comma separated list", "\n".join(items), ", ".join(items)), ("Split into lines", ", ".join(items), "\n".join(items)),
        ("Make a bullet list", ", ".join(items), "\n".join(f"- {i}" for i in items)), ("Make a numbered list", ", ".join(items), "\n".join(f"{k}. {i}" for k, i in enumerate(items, 1))),
        ("Sort alphabetically", ", ".join(items), ", ".join(sorted(items))), ("Reverse the order", ", ".join(items), ", ".join(items[::-1])),
        ("Fix the spacing", "  ".join(text.split()).replace(" ", rng.choice(("  ", "   "))) if text.split() else text, " ".join(text.split())),
        ("Give the first word", text, text.split()[0] if text.split() else text), ("Give the last word", text, text.split()[-1] if text.split() else text),
        ("Write as a JSON list", ", ".join(items), "[" + ",".join(f'"{i}"' for i in items) + "]"), ("Write the number in digits", spell(n := rng.int(1, 120)), str(n)),
        ("Write the number in words", str(n), spell(n)), ("Write the date as YYYY-MM-DD", (d := KINDS["date"].sample(rng)).text, str(d.json)),
        ("Write the time as HH:MM", (t := KINDS["time"].sample(rng)).text, str(t.json)),
    )  # fmt: skip
    task, source, target = rng.choice(tasks)
    if not target:
        target = source.upper() if "upper" in task else source.lower()
    mark = ": " if rng.chance(0.6) else ":\n"
    return ask_rewrite(rng, task, source, target, mark)


def ask_rewrite(rng: Rng, task: str, source: str, target: str, mark: str) -> Document:
    if rng.chance(0.2):
        return Chat(CATEGORY, "rewrite").system(f"{task}.").user(source).assistant(target).done()
    return Chat(CATEGORY, "rewrite").user(f"{task}{mark}{source}").assistant(target).done()


_SUMMARY = Phrases("""
    [Summarize|Sum up] the {thing} in one sentence.
    [Give|Write] a one-sentence summary[ of the {thing}|].
    What is the {thing} about? One sentence[, please|].
    TL;DR in one sentence.
""")


def summary(rng: Rng) -> Document:
    """The main facts of a text in one sentence: `The {domain} has {label} {value}, ...`."""
    domain = rng.choice(DOMAINS)
    facts = [f for f in record_facts(rng, domain, rng.int(1, 3)) if not f.flag][:3]
    if not facts:
        return plan(rng)
    body = rng.shuffled([f.sentence for f in facts] + filler(rng, 0, 6))
    text = paragraphs(rng, body)
    order = sorted(facts, key=lambda f: text.index(f.sentence) if f.sentence in text else 0)
    said = [f"the {f.label} is {f.value.text if not f.options else f.value.json}" for f in order]
    joined = said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]
    lead = rng.say(_SUMMARY, {"thing": rng.choice(("text", "message", "letter", "note"))})
    return ask(rng, Chat(CATEGORY, "summary"), lead, f"Text: {text}").assistant(capital(joined) + ".").done()


def subject(rng: Rng) -> Document:
    """A subject line or title: the topic named in the message."""
    topic = phrase(rng)
    said = rng.choice(
        (
            f"I am writing about the {topic}.",
            f"This is about the {topic}.",
            f"We have to talk about the {topic}.",
            f"I have a question on the {topic}.",
        )
    )
    text = (
        f"Dear {first_name(rng)},\n\n"
        + " ".join(rng.shuffled([said, *filler(rng, 1, 5)]))
        + f"\n\n{first_name(rng)}"
    )
    lead = rng.choice(
        (
            "Give a subject line for this message.",
            "Write a subject line.",
            "What is a good subject for this message?",
            "Give a short title.",
        )
    )
    return ask(rng, Chat(CATEGORY, "subject"), lead, text).assistant(capital(topic)).done()


def reply(rng: Rng) -> Document:
    """A short answer to an invitation or a request."""
    who, sender = first_name(rng), first_name(rng)
    event, day = (
        rng.choice(("the " + phrase(rng), KINDS["title"].sample(rng).text)),
        rng.choice(words.WEEKDAYS),
    )
    yes = rng.chance(0.5)
    text = rng.choice((f"Dear {who},\n\n{sentence(rng)} Would you come to {event} on {day}? {sentence(rng)}\n\n{sender}",
                       f"Hi {who},\nwe meet for {event} on {day}. Can you join us?\n{sender}", f"Dear {who},\n\nyou are invited to {event} on {day}. {sentence(rng)}\n\nYours, {sender}"))  # fmt: skip
    lead = "Write a short reply to this message. " + rng.choice(
        ("Accept it.", "Accept the invitation.") if yes else ("Decline it.", "Decline the invitation.")
    )
    middle = (
        f"Thank you for the invitation to {event}. I will be there on {day}."
        if yes
        else f"Thank you for the invitation to {event}. Sadly, I cannot come on {day}."
    )
    return (
        ask(rng, Chat(CATEGORY, "reply"), lead, text)
        .assistant(
            f"Dear {sender}, {middle} {'See you soon' if yes else 'I hope to see you another time'}, {who}"
        )
        .done()
    )


def _pattern(rng: Rng) -> Callable[[], tuple[str, Any]]:
    """A rule from input to output, for few-shot prompts."""
    capitals = {country(rng): city(rng) for _ in range(6)}
    pairs = {noun(rng): invented(rng) for _ in range(6)}
    rules = (
        ("word -> WORD", lambda: (w := noun(rng), w.upper())), ("copy", lambda: (w := invented(rng, 1, 4), w)), ("plural", lambda: (w := noun(rng), words.plural(w))),
        ("past", lambda: (w := verb(rng), words.past(w))), ("name", lambda: ((p := f"{first_name(rng)} {capital(invented(rng))}"), p.split()[-1])),
        ("initials", lambda: (p := f"{capital(invented(rng))} {capital(invented(rng))}", ". ".join(x[0] for x in p.split()) + ".")),
        ("mail", lambda: (e := KINDS["email"].sample(rng).text, e.split("@")[1])), ("next", lambda: (str(k := rng.int(1, 98)), str(k + 1))),
        ("digits", lambda: (spell(k := rng.int(1, 99)), str(k))), ("date", lambda: ((d := KINDS["date"].sample(rng)).text, d.json)), ("swap", lambda: (p := f"{noun(rng)} {adjective(rng)}", " ".join(p.split()[::-1]))),
        ("capital", lambda: rng.choice(list(capitals.items()))), ("dictionary", lambda: rng.choice(list(pairs.items()))), ("gerund", lambda: (w := verb(rng), words.gerund(w))),
        ("money", lambda: ((m := KINDS["money"].sample(rng)).text, str(m.json))), ("time", lambda: ((t := KINDS["time"].sample(rng)).text, t.json)),
        ("cap", lambda: (w := noun(rng), capital(w))), ("first letter", lambda: (w := noun(rng), w[0])), ("json", lambda: (w := noun(rng), f'{{"word":"{w}"}}')),
    )  # fmt: skip
    return rng.choice(rules)[1]


def few_shot(rng: Rng) -> Document:
    """A pattern shown three times or more, without roles or in one user turn."""
    rule = _pattern(rng)
    shots = [rule() for _ in range(rng.int(4, 8))]
    if rng.chance(0.75):
        left, joint, gap = rng.choice(
            (
                ("", " -> ", "\n"),
                ("", ": ", "\n"),
                ("Input: ", "\nOutput: ", "\n\n"),
                ("Q: ", "\nA: ", "\n\n"),
                ("", " => ", "\n"),
                ("", " = ", "\n"),
                ("", ", ", "\n"),
            )
        )
    else:
        a, b = capital(noun(rng)), capital(noun(rng))
        left, joint, gap = f"{a}: ", f"\n{b}: ", "\n\n"
    segments: list[tuple[str, bool]] = [(BOS if rng.chance(0.75) else "", False)]
    for i, (x, y) in enumerate(shots):
        segments += [(f"{left}{x}{joint}", False), (f"{y}{gap[:1]}", i >= 2), (gap[1:], False)]
    if rng.chance(0.25):
        body = (
            gap.join(f"{left}{x}{joint}{y}" for x, y in shots[:-1])
            + f"{gap}{left}{shots[-1][0]}{joint}".rstrip()
        )
        return Chat(CATEGORY, "pattern_chat").user(body).assistant(shots[-1][1]).done()
    return Document(CATEGORY, "pattern", tuple(s for s in segments if s[0]))


def facts_few_shot(rng: Rng) -> Document:
    """`City: X\\nCountry: Y` blocks: the last one is answered from a block seen before."""
    a, b = rng.choice(
        (
            ("City", "Country"),
            ("Name", "City"),
            ("Person", "Job"),
            ("Country", "Capital"),
            ("Company", "City"),
            ("Product", "Price"),
        )
    )
    makers = {"City": city, "Country": country, "Name": person, "Person": person, "Job": lambda r: r.choice(words.JOBS), "Capital": city, "Company": company,
              "Product": lambda r: r.choice(words.PRODUCTS), "Price": lambda r: KINDS["money"].sample(r).text}  # fmt: skip
    rows = [(makers[a](rng), makers[b](rng)) for _ in range(rng.int(2, 6))]
    shots = [*rows, rng.choice(rows)]
    segments: list[tuple[str, bool]] = [(BOS, False)]
    for i, (x, y) in enumerate(shots):
        segments += [(f"{a}: {x}\n{b}: ", False), (f"{y}\n", i == len(shots) - 1), ("\n", False)]
    return Document(CATEGORY, "blocks", tuple(segments[:-1]))


_TALK = (
    (("Hello!", "Hi.", "Hi there!", "Good morning.", "Hey!", "Hello, how are you?"), "Hello! How can I help you?"), (("Thank you!", "Thanks.", "Thanks a lot!"), "You are welcome."),
    (("Bye!", "Goodbye.", "See you later."), "Goodbye!"), (("What can you do?", "How can you help me?", "Who are you?", "What are you?"), "I am a small assistant. I can read texts and use tools."),
    (("Say hello.", "Say hi."), "Hello!"), (("Say yes.",), "yes"), (("Say no.",), "no"), (("What is your name?",), "My name is sgl-tiny."),
)  # fmt: skip


def talk(rng: Rng) -> Document:
    asked, answer = rng.choice(_TALK)
    chat = Chat(CATEGORY, "talk")
    if rng.chance(0.3):
        chat.system(
            rng.choice(("You are a helpful assistant.", "Be brief.", "You are a friendly assistant."))
        )
    return chat.user(rng.choice(asked)).assistant(answer).done()


def remembered(rng: Rng) -> Document:
    """The user says something about themselves and asks for it later."""
    facts = [
        ("name", first_name(rng)),
        ("favorite color", rng.choice(words.COLORS)),
        ("city", city(rng)),
        ("job", rng.choice(words.JOBS)),
        ("lucky number", str(rng.int(1, 99))),
        ("pet", rng.choice(words.ANIMALS)),
    ]
    chosen = rng.sample(facts, rng.int(1, 3))
    chat = Chat(CATEGORY, "memory")
    for key, value in chosen:
        chat.user(f"My {key} is {value}.").assistant("I will remember that.")
    key, value = rng.choice(chosen)
    return chat.user(f"What is my {key}?").assistant(value).done()


def plain_text(rng: Rng) -> Document:
    """Free text within the domain: letters and notes, learned with the small weight that all text has."""
    domain = rng.choice(DOMAINS)
    text = layout.write(rng, domain, record_facts(rng, domain, rng.int(2, 8)))
    return Document(CATEGORY, "text", ((BOS + text, False), (EOS, True)))


def write_letter(rng: Rng) -> Document:
    """Compose a short letter out of given facts."""
    who, sender, thing, day = first_name(rng), first_name(rng), phrase(rng), rng.choice(words.WEEKDAYS)
    lead = rng.choice(
        (
            f"Write a short letter to {who} about the {thing}. We meet on {day}. Sign as {sender}.",
            f"Write a note: to {who}, topic: {thing}, day: {day}, from {sender}.",
        )
    )
    return (
        Chat(CATEGORY, "letter")
        .user(lead)
        .assistant(
            f"Dear {who},\n\nI am writing about the {thing}. Let us meet on {day} to talk about it.\n\nBest regards,\n{sender}"
        )
        .done()
    )


def translate_json(rng: Rng) -> Document:
    """A JSON object described in a sentence, or a sentence turned to JSON lines."""
    facts = [
        f
        for f in record_facts(rng, rng.choice(DOMAINS), rng.int(1, 5))
        if isinstance(f.value.json, str | int | float)
    ]
    from .core import compact

    obj = {f.key: f.value.json for f in facts}
    if not obj:
        return talk(rng)
    if rng.chance(0.5):
        key = rng.choice(list(obj))
        value = obj[key]
        answer = value if isinstance(value, str) else compact(value)
        return (
            Chat(CATEGORY, "json_get")
            .user(f"{compact(obj)}\n\nWhat is {key}? Answer with the value only.")
            .assistant(answer)
            .done()
        )
    lines = "\n".join(
        f"{capital(k.replace('_', ' '))}: {v if isinstance(v, str) else compact(v)}" for k, v in obj.items()
    )
    return (
        Chat(CATEGORY, "json_lines").user(f"Write the JSON as lines:\n{compact(obj)}").assistant(lines).done()
    )
