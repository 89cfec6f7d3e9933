"""Batches: pure functions of seed and step, the same however the rows are divided."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from training.data import BatchConfig, Noise, PackedBatches, RowBatches, generator
from training.rows import DataError, RowConfig, RowEncoder
from training.sources import DataConfig, prepare
from training.store import TokenStore
from training.tokenization import (
    EOS_TOKEN,
    MASK_TOKEN,
    SPECIAL_TOKENS,
    build_tokenizer,
    complete,
    load_tokenizer,
    train_bpe,
)

TOKENIZER = build_tokenizer(["0123456789+=."])
EOS = TOKENIZER.token_to_id(EOS_TOKEN)


def store_of(records) -> TokenStore:
    encoder = RowEncoder(TOKENIZER, RowConfig())
    return TokenStore.from_rows(encoder.rows(("a", record) for record in records), TOKENIZER)


SUMS = store_of({"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(23))


def row_batches(store=SUMS, seed=3, **options) -> RowBatches:
    return RowBatches(store, BatchConfig(**{"batch_rows": 5, **options}), seed=seed, eos_id=EOS)


def packed_batches(seed=3, window=16, **options) -> PackedBatches:
    store = store_of({"text": str(i) * (i % 7 + 1)} for i in range(60))
    return PackedBatches(store, BatchConfig(**{"batch_rows": 4, **options}), window=window, seed=seed)


def whole(batches, step):
    return batches.part(step, range(batches.num_rows(step)))


@pytest.mark.parametrize("make", [row_batches, packed_batches])
def test_parts_are_rows_of_the_global_batch(make):
    first, again = make(), make()
    for step in (0, 1, first.steps_per_epoch - 1, 1000):
        full = whole(first, step)
        assert all(torch.equal(a, b) for a, b in zip(full, whole(again, step), strict=True))
        num = first.num_rows(step)
        for cut in range(num + 1):
            parts = [again.part(step, range(cut)), again.part(step, range(cut, num))]
            joined = [torch.cat(fields) for fields in zip(*parts, strict=True)]
            assert all(torch.equal(a, b) for a, b in zip(full, joined, strict=True))


@pytest.mark.parametrize("make", [row_batches, packed_batches])
def test_types_shapes_and_ranges(make):
    batch = whole(make(), 0)
    rows, length = batch.tokens.shape
    assert (batch.tokens.dtype, batch.maskable.dtype) == (torch.int64, torch.bool)
    assert (batch.draws.dtype, batch.times.dtype, batch.sample_ids.dtype) == (torch.float32, torch.float32, torch.int64)
    assert batch.maskable.shape == batch.draws.shape == (rows, length)
    assert batch.times.shape == batch.sample_ids.shape == (rows,)
    for values in (batch.draws, batch.times):
        assert ((values >= 0) & (values < 1)).all()


@pytest.mark.parametrize("make", [row_batches, packed_batches])
def test_another_seed_is_another_order_and_noise(make):
    one, other = whole(make(seed=3), 0), whole(make(seed=4), 0)
    assert not torch.equal(one.sample_ids, other.sample_ids)
    assert not torch.equal(one.draws[0, :8], other.draws[0, :8])


def test_an_epoch_sees_every_row_once_and_its_last_batch_is_short():
    batches = row_batches()
    assert batches.steps_per_epoch == 5
    assert [batches.num_rows(step) for step in range(10)] == [5, 5, 5, 5, 3] * 2
    epochs = [torch.cat([whole(batches, step).sample_ids for step in range(a, a + 5)]).tolist() for a in (0, 5)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]


def test_rows_are_padded_with_eos_that_may_be_hidden_and_prompts_may_not():
    batch = whole(row_batches(pads=[2]), 0)
    for tokens, maskable, row in zip(batch.tokens, batch.maskable, batch.sample_ids.tolist(), strict=True):
        ids, hidden = SUMS.example(row)
        length = len(ids)
        assert tokens[:length].tolist() == ids.tolist()
        assert maskable[:length].tolist() == hidden.tolist()
        assert (tokens[length:] == EOS).all()
        assert maskable[length:].all()
        assert tokens.shape[0] - SUMS.row_lengths()[batch.sample_ids].max() == 2


def test_padding_behind_a_template_is_never_hidden():
    store = store_of([{"template": "1_3", "answer": "123"}, {"template": "1_345", "answer": "12345"}])
    batch = whole(row_batches(store), 0)
    short = batch.sample_ids.tolist().index(0)
    assert batch.maskable[short].tolist() == [False, True, False, False, False]
    assert batch.tokens[short, 3:].tolist() == [EOS, EOS]


def test_batches_of_one_length_need_no_padding():
    batches = row_batches(same_length=True)
    seen = []
    for step in range(batches.steps_per_epoch):
        batch = whole(batches, step)
        seen += batch.sample_ids.tolist()
        assert (SUMS.row_lengths()[batch.sample_ids] == batch.tokens.shape[1]).all()
    assert sorted(seen) == list(range(23))


def test_a_visit_draws_one_reply_of_a_dialogue():
    messages = [{"role": role, "content": text} for role, text in (("user", "1"), ("assistant", "2")) * 3]
    store = store_of([{"messages": messages}])
    lengths = [whole(row_batches(store), step).tokens.shape[1] for step in range(60)]
    counts = np.unique(lengths, return_counts=True)[1]
    assert len(counts) == 3
    assert counts.min() > 8  # of sixty visits, twenty each on average


def test_times_are_even_or_drawn_one_by_one():
    even = Noise(1).times(0, 8, range(8))
    torch.testing.assert_close(even.sort().values.diff(), torch.full((7,), 1 / 8))
    single = Noise(1, even_times=False)
    alone = torch.cat([single.times(step, 8, range(8)) for step in range(200)])
    assert alone.unique().numel() > 1590
    # The mean of 1600 uniform draws deviates by 0.0072; five of that.
    assert alone.mean().item() == pytest.approx(0.5, abs=0.036)
    assert torch.equal(single.times(4, 8, range(2, 5)), single.times(4, 8, range(8))[2:5])


@pytest.mark.parametrize("even", [True, False])
def test_times_begin_where_they_are_told_to(even):
    """What is drawn between min_time and 1 is what was drawn between 0 and 1; at 1, everything is hidden."""
    whole, late, last = (Noise(1, even, least).times(0, 64, range(64)) for least in (0.0, 0.5, 1.0))
    torch.testing.assert_close(late, 0.5 + whole / 2)
    assert (last < 1).all()
    assert (last * 2**20 > 2**20 - 1).all()
    with pytest.raises(ValueError, match=r"min_time: expected 0\.\.1, got 2"):
        BatchConfig(min_time=2)


def test_draws_of_a_row_depend_on_its_place_alone():
    noise = Noise(1)
    assert torch.equal(noise.draws(5, range(2, 4), 9), noise.draws(5, range(8), 12)[2:4, :9])
    assert noise.draws(5, range(3, 3), 4).shape == (0, 4)
    assert generator(1, 2, 3, 4).random() != generator(1, 2, 4, 3).random()


def test_windows_of_an_epoch_cover_the_text_once():
    batches = packed_batches(random_length_share=0.0)
    num = batches.store.num_tokens
    for epoch in (0, 1):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        starts = torch.cat([whole(batches, step).sample_ids for step in steps]).tolist()
        assert len(starts) == num // 16
        covered = sorted((start + i) % num for start in starts for i in range(16))
        assert covered == sorted(set(covered))  # nothing twice
        assert len(covered) > num - 16  # nothing but a rest left out
    batch = whole(batches, 0)
    places = (batch.sample_ids[:, None] + torch.arange(16)) % num
    assert torch.equal(batch.tokens, torch.from_numpy(batches.store.tokens.astype(np.int64))[places])
    assert batch.maskable.all()


def test_documents_end_in_eos_and_epochs_cut_at_other_places():
    batches = packed_batches(random_length_share=0.0)
    assert (batches.store.tokens == EOS).sum() == 60
    cuts = [{int(whole(batches, e * batches.steps_per_epoch).sample_ids[0]) % 16} for e in range(4)]
    assert len(set.union(*cuts)) > 1


def test_some_steps_have_a_random_length():
    batches = packed_batches(random_length_share=0.25)
    lengths = [batches.part(step, range(1)).tokens.shape[1] for step in range(400)]
    cut = sum(length < 16 for length in lengths)
    # A quarter of the steps, of which one in sixteen keeps the full length; five deviations.
    assert abs(cut - 400 * 0.25 * 15 / 16) < 5 * (400 * 0.234 * 0.766) ** 0.5
    assert min(lengths) >= 1
    assert {batches.part(4, range(row, row + 1)).tokens.shape[1] for row in range(4)} == {lengths[4]}


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match=r"within 0\.\.5"):
        row_batches().part(0, range(6))
    with pytest.raises(ValueError, match="batch_rows: expected"):
        BatchConfig(batch_rows=0)
    with pytest.raises(ValueError, match="pads: expected"):
        BatchConfig(pads=())
    with pytest.raises(ValueError, match="random_length_share"):
        BatchConfig(random_length_share=2)
    with pytest.raises(ValueError, match="fewer than one window of 5000"):
        packed_batches(window=5000)


# ----------------------------------------------------------------------------------------------- [data] of a recipe


def write_sums(path, num=20):
    path.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) + "\n" for i in range(num)))
    return path


def test_files_become_batches_and_are_not_tokenised_twice(tmp_path):
    config = DataConfig(files=[str(write_sums(tmp_path / "a.jsonl"))])
    first = prepare(config, tmp_path / "run", seed=1, context=16)
    written = (tmp_path / "run" / "data" / "store" / "tokens.bin").stat().st_mtime_ns
    second = prepare(config, tmp_path / "run", seed=1, context=16)
    assert (tmp_path / "run" / "data" / "store" / "tokens.bin").stat().st_mtime_ns == written
    assert first.batches.data_hash == second.batches.data_hash == first.facts["data_sha256"]
    assert all(torch.equal(a, b) for a, b in zip(whole(first.batches, 3), whole(second.batches, 3), strict=True))
    with pytest.raises(DataError, match=r"a\.jsonl:10: 7 tokens .*the context has 6"):
        prepare(config, tmp_path / "other", seed=1, context=6)
    with pytest.raises(DataError, match="sha256: expected 00, got"):
        prepare(DataConfig(files=config.files, sha256="00"), tmp_path / "run", seed=1, context=16)


def test_a_task_is_written_down_and_packed_text_is_cut(tmp_path):
    made = prepare(DataConfig(task="addition", num_rows=30), tmp_path, seed=1, context=32)
    (path,) = (tmp_path / "data").glob("*.jsonl")
    assert len(path.read_text().splitlines()) == len(made.store) == 30
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(f"line {i}" for i in range(40)))
    packed = prepare(DataConfig(files=[str(text)], layout="packed", window=24), tmp_path / "p", seed=1, context=32)
    assert whole(packed.batches, 0).tokens.shape == (min(64, packed.store.num_tokens // 24), 24)
    holes = tmp_path / "holes.jsonl"
    holes.write_text('{"template": "1_", "answer": "12"}\n')
    with pytest.raises(DataError, match="packed windows have no templates"):
        prepare(DataConfig(files=[str(holes)], layout="packed"), tmp_path / "h", seed=1, context=2)


def test_a_recipe_names_files_or_a_task(tmp_path):
    for wrong in ({}, {"files": ["a.jsonl"], "task": "copy"}):
        with pytest.raises(ValueError, match="expected files or a task"):
            DataConfig(**wrong)
    with pytest.raises(ValueError, match=r"task: expected one of .*'sudoku4'.* got 'sudoku5'"):
        DataConfig(task="sudoku5")
    with pytest.raises(DataError, match="no such file"):
        prepare(DataConfig(files=["gone.jsonl"], tokenizer=None), tmp_path, seed=1, context=8)


# ------------------------------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_without_mask_and_end_gets_them_and_says_so(tmp_path):
    Tokenizer(models.WordLevel({"1": 0, "2": 1, "?": 2}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    tokenizer, added = load_tokenizer(tmp_path)
    assert added == list(SPECIAL_TOKENS)
    assert [tokenizer.token_to_id(token) for token in ("1", "2")] == [0, 1]  # its own entries stay
    assert tokenizer.token_to_id(MASK_TOKEN) is not None
    assert complete(tokenizer) == []
    config = DataConfig(files=[str(write_sums(tmp_path / "a.jsonl"))], tokenizer=str(tmp_path))
    assert MASK_TOKEN in prepare(config, tmp_path / "run", seed=1, context=16).facts["tokens added to the tokenizer"]


def test_a_missing_or_broken_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected a tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_bpe_survives_any_text_and_its_size_is_checked():
    tokenizer = train_bpe(["the cat sat on the mat"] * 20, 280)
    assert tokenizer.get_vocab_size() <= 280
    assert len(tokenizer.encode("the cat").ids) < 7
    text = "Ärger, 春\n\t🙂 the cat"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    with pytest.raises(ValueError, match="vocab_size: expected at least 262, got 100"):
        train_bpe([], 100)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_the_tokenizer_command_writes_a_file_once(tmp_path, kind):
    source, out = write_sums(tmp_path / "a.jsonl"), tmp_path / "tokenizer.json"
    command = [sys.executable, "-m", "training.tokenizer", str(source), "--out", str(out), "--kind", kind]
    done = subprocess.run([*command, "--vocab-size", "300"], capture_output=True, text=True, check=True)
    tokenizer, added = load_tokenizer(out)
    assert not added
    assert f"{tokenizer.get_vocab_size()} entries" in done.stderr
    assert tokenizer.decode(tokenizer.encode("7+1=").ids) == "7+1="
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists already" in again.stderr
