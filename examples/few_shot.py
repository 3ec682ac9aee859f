"""Few-shot classification of a batch: `sgl run examples/few_shot.py`.

The examples are the same for every text, so the batch computes their KV once; each answer is one `select`.
"""

import sgl_lang as sgl

SHOTS = {
    "The soup was cold and the waiter rude.": "negative",
    "A quiet room and a very kind host.": "positive",
    "The parcel came on Tuesday.": "neutral",
}
TEXTS = ["The lamp is bright and looks lovely.", "It broke on the first day.", "The box is made of paper."]


@sgl.function
def classify(s, text: str):
    s += "".join(f"Review: {review}\nSentiment: {label}\n\n" for review, label in SHOTS.items())
    s += f"Review: {text}\nSentiment:"
    s += sgl.select("label", choices=[" positive", " negative", " neutral"])


def main() -> list[str]:
    states = classify.run_batch([{"text": text} for text in TEXTS])
    labels = [state["label"].strip() for state in states]
    for text, label, state in zip(TEXTS, labels, states, strict=True):
        print(f"{label:<10}{text}  ({state.usage().cached_share:.0%} of the prompt cached)")
    return labels


if __name__ == "__main__":
    main()
