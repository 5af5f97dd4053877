"""A callback for each job: the code that uses a result is beside the code that submits the job.

Words are counted in pieces of text; when the last piece of a text is counted, its callback submits one more job. One
piece is broken on purpose, to show what happens to an error.
"""

import cw

TEXTS = {
    "fox": ["the quick brown fox", "jumps over", "the lazy dog"],
    "sea": ["she sells", "sea shells", "on the sea shore"],
    "broken": ["peter piper", None],
}


def count_words(text):
    """Count words. Runs on a worker."""
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def most_common(counts):
    """Find the most common word. Also runs on a worker."""
    return max(counts, key=lambda word: (counts[word], word))


def submit_text(client, name, pieces):
    """Submit a text's jobs. Their state is in this function's own variables, not in a table of job ids."""
    total, missing = {}, len(pieces)

    def on_count(jobid, counts):
        nonlocal missing
        for word, count in counts.items():
            total[word] = total.get(word, 0) + count
        missing -= 1
        if not missing:
            client.options(callback=on_word).submit(most_common, total)

    def on_word(jobid, word):
        print(f"{name}: {sum(total.values())} words, most often {word!r}")

    def on_error(jobid, error):
        print(f"{name}: a piece failed with {type(error).__name__}: {error}")

    jobs = client.options(callback=on_count, on_error=on_error)
    for piece in pieces:
        jobs.submit(count_words, piece)


def main():
    with cw.mp.allocate(2), cw.client.ClientThread() as client:
        for name, pieces in TEXTS.items():
            submit_text(client, name, pieces)


if __name__ == "__main__":
    main()
