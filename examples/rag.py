"""Retrieval and answer, with the passage quoted: `sgl run examples/rag.py ["question"]`.

Each document is read on its own branch, all at once; the branch that finds an answer is kept. Documents that
were read before are found in the cache.
"""

import re
import sys

import sgl_lang as sgl

DOCUMENTS = (
    "The harbour of Aarwick was built in 1911 by the engineer Tom Reyes. It has two piers and a lighthouse.",
    "The library of Zelm lends 40,000 books. Its reading room is open from 9 to 18 on weekdays.",
    "The observatory on Mount Kell belongs to the university. Dr Ines Moor leads it.",
)


def retrieve(question: str, count: int = 2) -> list[str]:
    """The documents that share most words with the question."""
    words = set(re.findall(r"\w+", question.lower()))
    score = {text: len(words & set(re.findall(r"\w+", text.lower()))) for text in DOCUMENTS}
    return sorted(DOCUMENTS, key=lambda text: -score[text])[:count]


@sgl.function
def answer(s, question: str):
    documents = retrieve(question)
    branches = s.fork(len(documents))
    for branch, document in zip(branches, documents, strict=True):
        branch += sgl.user(f"Passage: {document}\n\nQuestion: {question}")
        branch += sgl.assistant(sgl.gen("answer", max_tokens=24, temperature=0))
    branches.join()
    found = [(a, d) for a, d in zip(s["answer"], documents, strict=True) if a != "not stated"]
    s["answer"], s["source"] = found[0] if found else ("not stated", None)


def main(question: str = "Who leads the observatory?") -> str:
    state = answer.run(question)
    print(f"{state['answer']}\n  {state['source']}")
    return str(state["answer"])


if __name__ == "__main__":
    main(*sys.argv[1:])
