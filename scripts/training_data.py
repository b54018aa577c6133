"""Turn downloaded data sets into the files that `gsa train prepare` reads.

    python scripts/training_data.py DATA OUT --tokenizer tokenizer.json

DATA holds the sources, xz-packed JSON Lines, as docs/training.md lists them:

    qa/squad_train_subset_routerlens    qa/nq_swap_no_nqdev_overlap
    qa/nq_derived_{queries,passages}    qa/{hotpotqa,2wikimultihopqa,musique}_train
    qa/{squad_v1.1_dev,squad_v2.0_dev,hotpotqa_dev}     text/val_books
    retrieval/paul_graham_essays

OUT receives

    qa_train.jsonl    {question, answers, passages, distractors, source}: for `prepare ft`
    passages.jsonl    {text}: the passages and distractors of these, 10 in a document, all of them three
                      times in other orders, for `prepare cpt`
    val_books.jsonl   {text}: 80,000 characters from a quarter into each book, for `prepare cpt`
    hotpotqa.jsonl, 2wiki.jsonl, squad_long.jsonl, passkey_4k.jsonl, squad_8k.jsonl, passkey_8k.jsonl
                      {_id, dataset, input, documents, answers, length}: evaluation sets

A passage is a text, or its title, a line feed and the text. Nothing that SQuAD's or HotpotQA's
development sets ask about is in the training file. Of 2WikiMultihopQA only training questions are at
hand: 300 of them, drawn once, are for evaluation and not in the training file.

Only the standard library is needed, besides the package `tokenizers` for the evaluation sets: their
contexts are filled up to a number of tokens. The choice is drawn with a fixed seed; the token counts
are those of the model's tokenizer, of passages behind a blank line and of an opening like
OPENING. Without --tokenizer only the first three are written.
"""

import argparse
import contextlib
import json
import lzma
import os
import random
import re
import sys

# The start of the chat that contexts were sized for; only its number of tokens matters.
OPENING = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nAnswer the questions using the passages. Give a short answer.\n"
)
MULTIHOP_CONTEXT = 3500  # tokens at most
SQUAD_CONTEXTS = {"squad_long": (3350, 3500), "squad_8k": (7400, 7600)}  # enough tokens, and at most
PASSKEY_CONTEXTS = {"passkey_4k": 3900, "passkey_8k": 7600}
MAX_QUESTION = 40
NUM_QUESTIONS = 300
NUM_PASSKEYS = 300
PASSAGES_PER_DOCUMENT = 10  # so few that `prepare` notices one that an evaluation set has, too
PASSAGE_EPOCHS = 3  # each in an order of its own
BOOK_CHARS = 80_000


def read_records(folder, name):
    path = os.path.join(folder, name + ".jsonl.xz")
    try:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except FileNotFoundError:
        sys.exit(f"{path}: no such file: see the list in docs/training.md")
    except (lzma.LZMAError, EOFError, ValueError) as error:
        sys.exit(f"{path}: {error}: download it again")


def write_records(folder, name, records):
    """Writes beside the file and renames, so that it is there as a whole or not at all."""
    path = os.path.join(folder, name + ".jsonl")
    count = 0
    try:
        with open(path + ".part", "w", encoding="utf-8") as out:
            for record in records:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        os.replace(path + ".part", path)
    except BaseException:  # a source that is missing ends the program
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".part")
        raise
    print(f"{path}: {count} records")


def passage(title, text):
    text = text.strip()
    return f"{title}\n{text}" if title else text


def as_question(text):
    """Web queries come in lower case and without a mark."""
    return text[0].upper() + text[1:] + "?"


def answers_of(record):
    answers = record.get("answers") or record.get("answer")
    if isinstance(answers, dict):
        answers = answers["text"]
    return [answers] if isinstance(answers, str) else answers


# ---- training: question answering


def training_questions(folder):
    development = {
        record["context"].strip()
        for name in ("squad_v1.1_dev", "squad_v2.0_dev")
        for record in read_records(folder, name)
    }
    yield from squad_questions(folder, development)
    yield from swapped_questions(folder)
    yield from nq_questions(folder)
    for name in ("hotpotqa", "2wikimultihopqa", "musique"):
        records = list(read_records(folder, name + "_train"))
        for record in split_2wiki(records)[0] if name == "2wikimultihopqa" else records:
            passages = [passage(doc["title"], doc["text"]) for doc in record["documents"]]
            yield qa_record(record["question"], record["answers"][:1], passages, [], name)


def documents_of_passages(questions):
    passages = sorted({text for record in questions for text in record["passages"] + record["distractors"]})
    rng = random.Random(3)
    for _ in range(PASSAGE_EPOCHS):
        rng.shuffle(passages)
        for begin in range(0, len(passages), PASSAGES_PER_DOCUMENT):
            yield {"text": "\n\n".join(passages[begin : begin + PASSAGES_PER_DOCUMENT])}


def split_2wiki(records):
    """Questions to train on, and those set aside for evaluation."""
    order = sorted(records, key=lambda record: record["id"])
    random.Random(2).shuffle(order)
    return order[NUM_QUESTIONS:], order[:NUM_QUESTIONS]


def qa_record(question, answers, passages, distractors, source):
    return {
        "question": question,
        "answers": answers,
        "passages": passages,
        "distractors": distractors,
        "source": source,
    }


def squad_questions(folder, development):
    for record in read_records(folder, "squad_train_subset_routerlens"):
        context = record["context"].strip()
        if context not in development:
            yield qa_record(record["question"], answers_of(record)[:1], [context], [], "squad")


def swapped_questions(folder):
    """NQ with other names put into text and answer, so that only the text can be believed."""
    for record in read_records(folder, "nq_swap_no_nqdev_overlap"):
        context = re.sub(r"<[^>]*>", " ", record["context"])
        context = re.sub(r"\s+", " ", context).strip()
        if len(context) <= 4000 and record["answer"] in context:
            yield qa_record(
                as_question(record["question"]), [record["answer"]], [context], [], "nq_swap"
            )


def nq_questions(folder):
    texts = {
        record["pid"]: passage(record["title"], record["text"])
        for record in read_records(folder, "nq_derived_passages")
    }
    for record in read_records(folder, "nq_derived_queries"):
        gold = [texts[pid] for pid in record["gold_pids"]]
        answers = [a for a in record["answers"] if any(a in text for text in gold)]
        if answers:
            near = [texts[pid] for pid in record["bm25_distractor_pids"][:3]]
            yield qa_record(as_question(record["question"]), answers[:1], gold, near, "nq")


# ---- validation and evaluation


def validation_books(folder):
    for book in read_records(folder, "val_books"):
        text = book["text"].replace("\r\n", "\n")
        begin = len(text) // 4
        yield {"text": text[begin : begin + BOOK_CHARS]}


class TokenCounter:
    """Lengths of texts; passages count with the blank line before them."""

    def __init__(self, path):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            sys.exit("the evaluation sets need the package tokenizers: pip install tokenizers")
        self.tokenizer = Tokenizer.from_file(path)
        self.opening = self.count(OPENING)

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def count(self, text):
        return len(self.ids(text))

    def count_passage(self, text):
        return self.count("\n\n" + text)


def evaluation_record(dataset, number, question, documents, answers, length):
    return {
        "_id": f"{dataset}-{number}",
        "dataset": dataset,
        "input": question,
        "documents": documents,
        "answers": answers,
        "length": length,
    }


def multihop_set(name, questions, tokens, rng):
    """Questions with their own ten passages, as far as those fit."""
    short = [record for record in questions if len(record["answers"][0]) < 60]
    rng.shuffle(short)
    chosen = []
    for record in short:
        documents = [passage(doc["title"], doc["text"]) for doc in record["documents"]]
        length = tokens.opening + sum(map(tokens.count_passage, documents))
        if length <= MULTIHOP_CONTEXT:
            chosen.append(
                evaluation_record(
                    name, len(chosen), record["question"], documents, record["answers"], length
                )
            )
        if len(chosen) == NUM_QUESTIONS:
            break
    return chosen


def squad_set(name, records, tokens, rng):
    """Questions whose paragraph stands among others: some of the same article, none with an answer."""
    enough, most = SQUAD_CONTEXTS[name]
    paragraphs = sorted({(r["title"], r["context"].strip()) for r in records})
    by_title = {}
    for title, text in paragraphs:
        by_title.setdefault(title, []).append(text)
    short = [r for r in records if tokens.count(r["question"]) <= MAX_QUESTION]
    rng.shuffle(short)
    chosen = []
    for record in short[:NUM_QUESTIONS]:
        gold = record["context"].strip()
        answers = [answer.lower() for answer in record["answers"]]

        def is_clean(text):
            return not any(answer in text.lower() for answer in answers)

        near = [text for text in by_title[record["title"]] if text != gold and is_clean(text)]
        rng.shuffle(near)
        far = [
            text
            for title, text in rng.sample(paragraphs, 60)
            if title != record["title"] and is_clean(text)
        ]
        documents, length = [], tokens.opening + tokens.count_passage(gold)
        for text in near[:6] + far:
            size = tokens.count_passage(text)
            if length + size > most:
                continue
            documents.append(text)
            length += size
            if length > enough:
                break
        documents.append(gold)
        order = list(range(len(documents)))
        rng.shuffle(order)
        chosen.append(
            evaluation_record(
                name,
                len(chosen),
                record["question"],
                [documents[i] for i in order],
                record["answers"],
                length,
            )
        )
    return chosen


def passkey_set(name, essays, tokens, rng):
    """A number hidden at growing depth in a stretch of essays, behind the end of a sentence."""
    num_tokens = PASSKEY_CONTEXTS[name]
    ids = [token for essay in essays for token in tokens.ids(essay["text"])]
    decode = tokens.tokenizer.decode
    ends = {tokens.tokenizer.token_to_id(mark) for mark in (".", "?")}
    chosen = []
    for i in range(NUM_PASSKEYS):
        key = "".join(rng.choice("0123456789") for _ in range(5))
        begin = rng.randrange(0, len(ids) - num_tokens - 10)
        body = ids[begin : begin + num_tokens - 60 - tokens.opening]
        depth = int((i + 0.5) / NUM_PASSKEYS * (len(body) - 20))
        stops = (j for j in range(depth, min(depth + 200, len(body))) if body[j - 1] in ends)
        depth = next(stops, depth)
        needle = f" The pass key is {key}. Remember it. {key} is the pass key."
        text = decode(body[:depth]) + needle + decode(body[depth:])
        chosen.append(
            evaluation_record(
                name,
                i,
                "What is the pass key mentioned in the text?",
                [text],
                [key],
                tokens.opening + tokens.count_passage(text),
            )
        )
    return chosen


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="folder of the sources")
    parser.add_argument("out", help="folder to write to")
    parser.add_argument("--tokenizer", help="tokenizer.json of the model, for the evaluation sets")
    args = parser.parse_args()
    qa = os.path.join(args.data, "qa")
    os.makedirs(args.out, exist_ok=True)

    questions = list(training_questions(qa))
    write_records(args.out, "qa_train", questions)
    write_records(args.out, "passages", documents_of_passages(questions))
    write_records(args.out, "val_books", validation_books(os.path.join(args.data, "text")))
    if not args.tokenizer:
        return
    tokens = TokenCounter(args.tokenizer)
    rng = random.Random(1)  # one for all sets, in this order
    hotpotqa = list(read_records(qa, "hotpotqa_dev"))
    write_records(args.out, "hotpotqa", multihop_set("hotpotqa", hotpotqa, tokens, rng))
    squad = list(read_records(qa, "squad_v1.1_dev"))
    essays = list(read_records(os.path.join(args.data, "retrieval"), "paul_graham_essays"))
    write_records(args.out, "squad_long", squad_set("squad_long", squad, tokens, rng))
    write_records(args.out, "passkey_4k", passkey_set("passkey_4k", essays, tokens, rng))
    write_records(args.out, "squad_8k", squad_set("squad_8k", squad, tokens, rng))
    write_records(args.out, "passkey_8k", passkey_set("passkey_8k", essays, tokens, rng))
    two_wiki = split_2wiki(list(read_records(qa, "2wikimultihopqa_train")))[1]
    write_records(args.out, "2wiki", multihop_set("2wiki", two_wiki, tokens, rng))


if __name__ == "__main__":
    main()
