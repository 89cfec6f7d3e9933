"""Files of rows, what is wrong with them, and the store they become."""

import json
from collections.abc import Iterable

import numpy as np
import pytest

from training.rows import DataError, Example, RowConfig, RowEncoder, read_records
from training.store import StoreError, TokenStore, store_key
from training.tokenization import EOS_TOKEN, EOT_TOKEN, MASK_TOKEN, build_tokenizer, encode_chat, train_bpe

TOKENIZER = build_tokenizer(["0123456789+=."])
EOS, EOT, MASK = (TOKENIZER.token_to_id(token) for token in (EOS_TOKEN, EOT_TOKEN, MASK_TOKEN))


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def encode(record: dict, **options) -> tuple[Example, ...]:
    row = RowEncoder(TOKENIZER, RowConfig(**options)).encode(record, "rows.jsonl:7")
    assert row is not None
    return row.examples


def write_lines(path, records: Iterable[dict]):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------------- rows


def test_each_form_becomes_prompt_and_answer():
    assert encode({"text": "1+1"}) == (Example((), (*ids("1+1"), EOS)),)
    assert encode({"prompt": "1+1=", "answer": "2"}) == (Example(ids("1+1="), (*ids("2"), EOS)),)
    assert encode({"template": "1_=_", "answer": "1+=2"}) == (Example((), ids("1+=2"), (1, 3)),)
    assert encode({"prompt": "1", "chosen": "2", "rejected": "3"}) == (
        Example(ids("1"), (*ids("2"), EOS)),
        Example(ids("1"), (*ids("3"), EOS)),
    )


def test_chat_rows_go_through_the_template_without_a_stray_header():
    prompt = tuple(encode_chat(TOKENIZER, [{"role": "user", "content": "1+1="}], add_generation_prompt=True))
    assert encode({"prompt": "1+1=", "answer": " 2 "}, chat=True) == (Example(prompt, (*ids("2"), EOT)),)


def test_a_dialogue_of_n_replies_gives_n_pairs():
    messages = [
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3+3="},
        {"role": "assistant", "content": "6"},
    ]
    examples = encode({"messages": messages})
    assert [example.answer for example in examples] == [(*ids("2"), EOT), (*ids("6"), EOT)]
    for example, turns in zip(examples, (1, 3), strict=True):
        assert example.prompt == tuple(encode_chat(TOKENIZER, messages[:turns], add_generation_prompt=True))


def test_a_token_is_a_hole_if_any_of_its_characters_is():
    tokenizer = train_bpe(["aaaa bbbb"] * 50, 300)
    row = RowEncoder(tokenizer, RowConfig()).encode({"template": "aaaa bb_b", "answer": "aaaa bbbb"}, "here")
    (example,) = row.examples
    assert tokenizer.decode(list(example.answer)) == "aaaa bbbb"
    assert 0 < len(example.holes) < len(example.answer)
    assert "b" in tokenizer.decode([example.answer[hole] for hole in example.holes])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "1", "answer": " "}, "the row has no answer"),
        ({"prompt": "1", "chosen": "2", "rejected": ""}, "the row has no rejected"),
        ({"prompt": "1", "chosen": "2", "rejected": "2"}, "the same answer"),
        ({"text": " \n"}, "the text is empty"),
        ({"prompt": "1"}, r"expected the keys .* got \['prompt'\]"),
        ({"prompt": "1", "answer": "2", "note": "3"}, r"got \['answer', 'note', 'prompt'\]"),
        ({"prompt": "1", "answer": 2}, "answer: expected text, got int"),
        ({"template": "1_", "answer": "123"}, "2 characters, the answer 3"),
        ({"template": "1_", "answer": "23"}, "character 0 is '1' in the template, '2' in the answer"),
        ({"template": "12", "answer": "12"}, "no hole"),
        ({"messages": []}, "messages: expected a list"),
        ({"messages": [{"role": "user", "content": "1"}]}, "expected an assistant's reply"),
        ({"messages": [{"role": "assistant", "content": "1"}]}, "expected an assistant's reply after a message"),
        ({"messages": [{"role": "robot", "content": "1"}]}, "expected a role"),
        ({"messages": [{"role": "user"}]}, "a message: expected the keys"),
        (
            {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": ""}]},
            r"messages\[1\] is a reply without an answer",
        ),
        ({"text": f"1{MASK_TOKEN}"}, "would be trained on as a hole"),
    ],
)
def test_wrong_records_are_refused_at_their_place(record, message):
    with pytest.raises(DataError, match=r"^rows.jsonl:7: .*" + message):
        encode(record)


def test_an_escaped_mask_is_ordinary_text():
    text = f"1{MASK_TOKEN}{MASK_TOKEN}2"
    (example,) = encode({"text": text}, mask_in_text="escape")
    assert MASK not in example.answer
    assert TOKENIZER.decode(list(example.answer[:-1]), skip_special_tokens=False) == text


def test_rows_longer_than_the_context_are_refused_or_dropped():
    records = [("a:1", {"prompt": "1+1=", "answer": "2"}), ("a:2", {"prompt": "10+10=", "answer": "20"})]
    with pytest.raises(DataError, match=r"a:2: 9 tokens \(prompt 6, answer with its end 3\), the context has 6"):
        list(RowEncoder(TOKENIZER, RowConfig(max_length=6)).rows(records))
    encoder = RowEncoder(TOKENIZER, RowConfig(max_length=6, too_long="drop"))
    assert len(list(encoder.rows(records))) == 1
    assert encoder.num_dropped == 1
    with pytest.raises(DataError, match="the corpus is empty: all 2 rows were too long"):
        list(RowEncoder(TOKENIZER, RowConfig(max_length=2, too_long="drop")).rows(records))
    with pytest.raises(DataError, match="the corpus is empty"):
        list(RowEncoder(TOKENIZER, RowConfig()).rows([]))


@pytest.mark.parametrize("options", [{"too_long": "cut"}, {"mask_in_text": "keep"}, {"columns": {"question": "q"}}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
        RowConfig(**options)


# --------------------------------------------------------------------------------------------------------------- files


def test_json_lines_and_parquet_hold_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(5)]
    lines = write_lines(tmp_path / "a.jsonl", records)
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    for path in (lines, tmp_path / "a.parquet"):
        assert list(read_records(path, RowConfig())) == [(f"{path}:{i}", record) for i, record in enumerate(records, 1)]


def test_columns_rename_and_leave_out(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"q": "1+1=", "a": "2", "level": 3}])
    config = RowConfig(columns={"prompt": "q", "answer": "a"})
    assert [record for _, record in read_records(path, config)] == [{"prompt": "1+1=", "answer": "2"}]


def test_text_files_hold_a_document_a_paragraph_or_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n1\n2\n\n\n3\n", encoding="utf-8")
    assert list(read_records(path, RowConfig())) == [(f"{path}:2", {"text": "1\n2"}), (f"{path}:6", {"text": "3"})]
    (whole,) = read_records(path, RowConfig(text_unit="file"))
    assert whole[1] == {"text": "1\n2\n\n\n3"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "1"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"text": "1"}\n\n[1]\n', r"a\.jsonl:3: expected an object, got list"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b'{"text": "1"}\n{"text": "1\\ud83d"}\n', r"a\.jsonl:2: character 1 is half a character, '.ud83d'"),
        ("a.jsonl", b'{"prompt": "\\udca9", "answer": "1"}', r"a\.jsonl:1: character 0 is half"),
        ("a.jsonl", b'{"\\ud800": "1"}', r"a\.jsonl:1: character 0 is half"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "12\\ud83d"}]}', r"a\.jsonl:1: character 2 is half"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 200_000, r"a\.jsonl:1: not JSON"),
        ("a.txt", b"1\n\xff\n", r"a\.txt:\d: not UTF-8"),
        ("a.parquet", b"no", r"a\.parquet: not Parquet"),
        ("a.csv", b"1", r"expected one of \.jsonl, \.parquet, \.txt, got '\.csv'"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, name, content, message):
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_records(tmp_path / name, RowConfig()))


def test_whole_characters_outside_the_basic_plane_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\\ud83d\\udca9"}\n{"text": "\xf0\x9f\x92\xa9"}\n')
    assert [record["text"] for _, record in read_records(tmp_path / "a.jsonl", RowConfig())] == ["\U0001f4a9"] * 2


def test_half_a_character_from_elsewhere_than_a_file_is_named(tokenizer):
    with pytest.raises(DataError, match="row 3: character 1 is half a character"):
        RowEncoder(tokenizer, RowConfig()).encode({"text": "1\ud83d"}, "row 3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_records(tmp_path / "a.jsonl", RowConfig()))


# --------------------------------------------------------------------------------------------------------------- store

RECORDS = [
    {"prompt": "1+1=", "answer": "2"},
    {"template": "1_=_", "answer": "1+=2"},
    {"prompt": "1", "chosen": "2", "rejected": "30"},
    {"text": "123"},
]


def rows():
    return RowEncoder(TOKENIZER, RowConfig()).rows((f"a:{i}", record) for i, record in enumerate(RECORDS))


def check_contents(store: TokenStore) -> None:
    assert len(store) == 4
    assert store.tokens.dtype == np.uint16
    assert store.lengths(np.arange(5)).tolist() == [6, 4, 3, 4, 4]
    assert store.row_lengths().tolist() == [6, 4, 4, 4]
    assert [list(store.examples_of(row)) for row in range(4)] == [[0], [1], [2, 3], [4]]
    expected = [
        ([*ids("1+1="), *ids("2"), EOS], [False] * 4 + [True] * 2),
        (list(ids("1+=2")), [False, True, False, True]),
        ([*ids("12"), EOS], [False, True, True]),
        ([*ids("130"), EOS], [False, True, True, True]),
        ([*ids("123"), EOS], [True] * 4),
    ]
    for number, (tokens, hidden) in enumerate(expected):
        found = store.example(number)
        assert (found[0].tolist(), found[1].tolist()) == (tokens, hidden)
    assert [store.is_template(number) for number in range(5)] == [False, True, False, False, False]
    assert [store.prompt_length(number) for number in range(5)] == [4, 0, 1, 1, 0]
    assert store.pick(np.array([2, 2, 0]), np.array([0.0, 0.999, 0.7])).tolist() == [2, 3, 0]


def test_a_store_in_memory_and_one_in_a_folder_hold_the_same(tmp_path):
    memory = TokenStore.from_rows(rows(), TOKENIZER)
    check_contents(memory)
    mapped = TokenStore.load_or_build(tmp_path / "store", "key", rows, TOKENIZER)
    check_contents(mapped)
    assert isinstance(mapped.tokens, np.memmap)
    assert mapped.data_hash == memory.data_hash


def test_a_store_is_used_again_until_its_key_changes(tmp_path):
    folder, calls = tmp_path / "store", []

    def counted():
        calls.append(1)
        return rows()

    for key, expected in (("a", 1), ("a", 1), ("b", 2)):
        check_contents(TokenStore.load_or_build(folder, key, counted, TOKENIZER))
        assert len(calls) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["store"]  # nothing half made is left


def test_the_key_changes_with_content_tokenizer_and_options(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", RECORDS)
    keys = [store_key([path], TOKENIZER, "x"), store_key([path], TOKENIZER, "y")]
    keys.append(store_key([path], build_tokenizer(["甲"]), "x"))
    path.touch()
    assert store_key([path], TOKENIZER, "x") == keys[0]
    write_lines(path, RECORDS[:3])
    keys.append(store_key([path], TOKENIZER, "x"))
    assert len(set(keys)) == 4


def test_a_build_that_fails_leaves_the_older_store(tmp_path):
    folder = tmp_path / "store"
    TokenStore.load_or_build(folder, "a", rows, TOKENIZER)

    def broken():
        yield from rows()
        raise DataError("a:9: wrong")

    with pytest.raises(DataError, match="a:9"):
        TokenStore.load_or_build(folder, "b", broken, TOKENIZER)
    check_contents(TokenStore.open(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_truncated_store_is_refused_and_other_files_are_left_alone(tmp_path):
    folder = tmp_path / "store"
    TokenStore.load_or_build(folder, "a", rows, TOKENIZER)
    tokens = folder / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(StoreError, match=r"tokens\.bin: expected \d+ bytes, got \d+"):
        TokenStore.open(folder)
    check_contents(TokenStore.load_or_build(folder, "a", rows, TOKENIZER))  # made again
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="expected a token store or nothing"):
        TokenStore.load_or_build(mine, "a", rows, TOKENIZER)
    assert (mine / "thesis.txt").exists()


def test_the_hash_is_of_tokens_division_and_tokenizer():
    def hash_of(records, tokenizer=TOKENIZER):
        encoder = RowEncoder(tokenizer, RowConfig())
        return TokenStore.from_rows(encoder.rows(("a", record) for record in records), tokenizer).data_hash

    hashes = [
        hash_of([{"prompt": "1", "answer": "23"}]),
        hash_of([{"prompt": "12", "answer": "3"}]),
        hash_of([{"prompt": "1", "answer": "24"}]),
        hash_of([{"prompt": "1", "answer": "23"}], build_tokenizer(["0123456789甲"])),
    ]
    assert len(set(hashes)) == 4
    assert hash_of([{"prompt": "1", "answer": "23"}]) == hashes[0]
