"""A chat of several turns about a passage: `sgl run examples/chat.py`.

Every turn goes on where the last one ended: nothing is sent or computed twice.
"""

import sgl_lang as sgl

PASSAGE = (
    "The bakery in Zelm opened in 1987. It was founded by Ruta Kalnins, who came from the town of Aarwick. "
    "Today her son Emil runs it with nine people, and the best known cake is the plum tart."
)
QUESTIONS = ("Who founded the bakery?", "When did it open?", "Who runs it today?")


@sgl.function
def chat(s, passage: str, questions: tuple[str, ...]):
    for number, question in enumerate(questions):
        head = f"Passage: {passage}\n\n" if number == 0 else ""
        s += sgl.user(f"{head}Question: {question}")
        s += sgl.assistant(sgl.gen(f"answer{number}", max_tokens=32, temperature=0))


def main() -> list[str]:
    state = chat.run(PASSAGE, QUESTIONS)
    answers = [str(state[f"answer{number}"]) for number in range(len(QUESTIONS))]
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question}\n  {answer}")
    return answers


if __name__ == "__main__":
    main()
