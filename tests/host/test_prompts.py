"""Prompts through the host's real tokenizers: every word has the columns that the model reads."""

import importlib
import unicodedata

import pytest
import torch
from family_models import TOKENIZERS
from host_models import clip_of_every_token, tokenizer_alone
from safetensors.torch import save_file

pytestmark = pytest.mark.host_surface

SENTENCE = "A cyan cat, sitting on a checkered mat."
LONG = ", ".join(["a cyan cat on a checkered mat"] * 12)
BEGIN, END = 49406, 49407
# SD 2.x and SDXL's second encoder pad with another token than end.
PADDING = {"SD 1.x": END, "SD 2.x": 0, "SDXL": END}


@pytest.fixture(scope="module")
def make_clip(pack):
    """Only after the host is there."""
    return tokenizer_alone


@pytest.fixture(scope="module")
def every_token(pack):
    return clip_of_every_token()


@pytest.fixture(scope="module")
def clips(make_clip):
    return {name: make_clip(*where) for name, where in TOKENIZERS.items()}


@pytest.fixture(scope="module", params=TOKENIZERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def clip(clips, kind):
    return clips[kind]


@pytest.fixture(scope="module")
def sd1(clips):
    return clips["SD 1.x"]


@pytest.fixture(scope="module")
def tokenize(pack):
    return importlib.import_module("nmg_pack.nodes.host.models.tokens").tokenize


@pytest.fixture(scope="module")
def prompts(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.words")


@pytest.fixture(scope="module")
def alignment(pack):
    return importlib.import_module("nmg_pack.nmg_sampler.words.alignment")


@pytest.fixture
def embeddings(tmp_path):
    """(name, vectors by key) -> the folder that holds this embedding."""

    def write(name, **vectors):
        save_file(vectors, tmp_path / f"{name}.safetensors")
        return str(tmp_path)

    return write


def words(prompt):
    """{text: (columns, marks)}, of words that differ."""
    return {word.text: (word.columns, word.marks) for word in prompt.words}


def spelt(clip, prompt, columns):
    """What the vocabulary has at these columns."""
    parts = vars(clip.tokenizer)
    encoder = parts.get("clip_l") or parts["clip_h"]
    return "".join(encoder.inv_vocab[prompt.ids[c]].replace("</w>", " ") for c in columns).strip()


def as_written(clip, prompt, columns):
    """The text of these columns, from the bytes of their tokens."""
    parts = vars(clip.tokenizer)
    encoder = parts.get("clip_l") or parts["clip_h"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    signs = {chr(byte): byte for byte in plain}
    signs |= {chr(256 + place): byte for place, byte in enumerate(other)}
    spelling = "".join(encoder.inv_vocab[prompt.ids[c]].removesuffix("</w>") for c in columns)
    return bytes(signs[sign] for sign in spelling).decode()


# --- Words ----------------------------------------------------------------------------------------


def test_every_word_has_the_columns_of_its_tokens(clip, kind, tokenize):
    prompt = tokenize(clip, SENTENCE)
    assert [(word.text, word.columns, word.marks) for word in prompt.words] == [
        ("A", (1,), ()),
        ("cyan", (2, 3), ()),
        ("cat,", (4,), (5,)),
        ("sitting", (6,), ()),
        ("on", (7,), ()),
        ("a", (8,), ()),
        ("checkered", (9, 10), ()),
        ("mat.", (11,), (12,)),
    ]
    assert prompt.text == SENTENCE
    assert len(prompt.ids) == 77
    assert (prompt.ids[0], prompt.ids[13], *{*prompt.ids[14:]}) == (BEGIN, END, PADDING[kind])
    assert prompt.frames == ((0, *range(13, 77)),)


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        LONG,
        "masterpiece,best quality,1girl; cat|dog",
        "rock'n'roll, the dog's 1,000 black-and-white T-shirts & 'tis 50%",
        "“quoted” café naïve cafe\u0301 \u8001\u864e \u0915\u0940 🐯 cat🐯",
        "a\u00a0b \t c\n\nd   e",
        "cat , dog ... :d",
        "unbalanced ( (and [cat] <dog> {a_b}",
        "supercalifragilisticexpialidocious " * 20,
        "cat,'s a,-b <|endoftext|> cat",
    ],
    ids=lambda text: text[:12],
)
def test_the_tokens_of_each_word_spell_it(clip, tokenize, text):
    prompt = tokenize(clip, text)
    for word in prompt.words:
        got = spelt(clip, prompt, word.tokens).replace(" ", "")
        if word.text.isascii():
            assert got == word.text.lower()
    everything = [column for word in prompt.words for column in word.tokens]
    frames = [column for frame in prompt.frames for column in frame]
    assert sorted(everything + frames) == [*range(len(prompt.ids))]
    assert everything == sorted(everything)
    assert "".join(word.text for word in prompt.words) == "".join(text.split())


def test_an_empty_prompt_has_no_words(clip, tokenize):
    prompt = tokenize(clip, "")
    assert prompt.words == ()
    assert prompt.frames == (tuple(range(77)),)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(tiger:1.3)", ["tiger"]),
        (
            "a (big (striped tiger:1.4):0.8), (red) cat",
            ["a", "big", "striped", "tiger", "red", "cat"],
        ),
        (r"tiger \(animal\)", ["tiger", "animal"]),
        (r"(tiger \(animal\):1.2)", ["tiger", "animal"]),
        ('("tiger":1.1), cat', ["tiger", "cat"]),
        ("(tiger:1.1),cat", ["tiger", "cat"]),
        ("(tiger:1.1)cat", ["tiger", "cat"]),
        ("[tiger] ((tiger))", ["tiger", "tiger"]),
    ],
)
def test_brackets_and_weights_are_no_part_of_a_word(clip, tokenize, prompts, text, names):
    prompt = tokenize(clip, text)
    assert [word.name for word in prompt.words] == names
    for name in names:
        found = prompts.find(prompt, name)
        assert spelt(clip, prompt, found).replace(" ", "") == name * names.count(name)


def test_brackets_part_no_punctuation_from_its_word(clip, tokenize):
    prompt = tokenize(clip, r'a "(tiger:1.2)", well-(known:1.1) \(animal\)')
    assert [(word.text, word.columns, word.marks) for word in prompt.words] == [
        ("a", (1,), ()),
        ('"tiger",', (3,), (2, 4)),
        ("well-known", (5, 6, 7), ()),
        ("(animal)", (9,), (8, 10)),
    ]


def test_weights_move_no_token(clip, tokenize):
    plain, weighted = (
        tokenize(clip, text)
        for text in ("a big cyan cat, on a mat", "a (big (cyan:1.2) cat:0.7), (on a:1.1) mat")
    )
    assert weighted.ids == plain.ids
    assert weighted.words == plain.words


def test_words_in_a_row_and_punctuation(sd1, tokenize, prompts):
    prompt = tokenize(sd1, "an Oil Painting, of a checkered building. oil")
    assert prompts.find(prompt, "oil painting") == (2, 3)
    assert prompts.find(prompt, "oil") == (2, 11)
    assert prompts.find(prompt, "building") == (9,)
    assert prompts.find(prompt, "Checkered building.") == (7, 8, 9)
    with pytest.raises(ValueError, match="tiger.*checkered, building"):
        prompts.find(prompt, "tiger")


# --- Words without spaces -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一只红色的老虎，坐着", "一 只 红 色 的 老 虎， 坐 着"),
        ("赤い「猫」が座る。", "赤 い 「猫」 が 座 る。"),
        ("カラフルなTシャツの1匹", "カラフル な T シャツ の 1 匹"),
        ("(赤い:1.3)猫と犬", "赤 い 猫 と 犬"),
        ("日本の cat猫cat 호랑이가", "日 本 の cat 猫 cat 호랑이가"),
        # The first token of "りが" ends in its second character; "と繋がりたい" is one token.
        ("祈りが青い", "祈 りが 青 い"),
        ("人と繋がりたい", "人 と繋がりたい"),
        ("か\u3099く", "か\u3099 く"),
        ("'tis，猫", "'tis， 猫"),
    ],
)
def test_scripts_without_spaces_are_cut_where_the_encoder_reads_them_apart(
    clip, tokenize, text, expected
):
    prompt = tokenize(clip, text)
    assert [word.text for word in prompt.words] == expected.split()
    column = 1
    for word in prompt.words:
        assert word.tokens == (*range(column, column + len(word.tokens)),)
        column += len(word.tokens)
        spelling = unicodedata.normalize("NFC", word.text.lower())
        assert as_written(clip, prompt, word.tokens) == spelling


def test_the_name_of_an_embedding_is_never_cut(make_clip, embeddings, tokenize):
    folder = embeddings("赤い猫", emb_params=torch.rand(2, 768))
    clip = make_clip(*TOKENIZERS["SD 1.x"], embedding_directory=folder)
    prompt = tokenize(clip, "a embedding:赤い猫, 犬")
    assert words(prompt) == {
        "a": ((1,), ()),
        "embedding:赤い猫,": ((2, 3), (4,)),
        "犬": ((5, 6, 7), ()),
    }


@pytest.mark.parametrize(
    ("before", "after", "old", "new"),
    [
        ("黒い背景に赤い三角形。", "黒い背景に青い三角形。", "赤", "青"),
        ("黑色背景上的红色三角形，大", "黑色背景上的黄色三角形，大", "红", "黄"),
        ("黒い背景に赤いレンガ、大", "黒い背景に赤いライオン、大", "レンガ", "ライオン"),
    ],
    ids=["Japanese", "Chinese", "katakana"],
)
def test_a_changed_word_of_a_sentence_without_spaces_is_all_that_changes(
    clip, tokenize, alignment, prompts, before, after, old, new
):
    source, target = tokenize(clip, before), tokenize(clip, after)
    made = alignment.align(source, target, "auto")
    assert made.summary == f"{old} -> {new}"
    assert made.copied.eq(1).all()
    replaced, by = prompts.find(source, old), prompts.find(target, new)
    longer = len(by) - len(replaced)
    expected = torch.zeros(77, 77)
    for column in range(len(source.tokens) + 2):
        if column not in replaced:
            expected[column, column + (column > replaced[0]) * longer] = 1
    share = torch.full((len(replaced), len(by)), 1 / len(by)) if longer else torch.eye(len(by))
    expected[replaced[0] : replaced[-1] + 1, by[0] : by[-1] + 1] = share
    spoken = slice(0, len(target.tokens) + 2)  # what is padding is paired by its place
    assert torch.equal(made.mapping[:, spoken], expected[:, spoken])


# --- More than 77 tokens --------------------------------------------------------------------------


def test_a_long_prompt_fills_several_chunks(clip, tokenize, prompts):
    prompt = tokenize(clip, LONG)
    assert len(prompt.ids) == 2 * 77
    assert [frame[0] for frame in prompt.frames] == [0, 77]
    found = prompts.find(prompt, "checkered")
    assert len(found) == 24
    assert {*found} & {*range(78, 154)}
    assert spelt(clip, prompt, found) == " ".join(["checkered"] * 12)


def test_small_groups_are_kept_whole_across_chunks(sd1, tokenize):
    # The host moves a weighted group of fewer than 8 tokens to the next chunk as a whole.
    prompt = tokenize(sd1, "cat " * 73 + "(cyan checkered mat:1.2)")
    assert prompt.frames[0] == (0, 74, 75, 76)
    assert words(prompt)["cyan"] == ((78, 79), ())


# --- Alignment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "replace", "refine"])
@pytest.mark.parametrize("text", ["", SENTENCE, "a (cyan:1.3) cat", LONG], ids=len)
def test_equal_prompts_have_the_identity(clip, tokenize, alignment, mode, text):
    prompt = tokenize(clip, text)
    made = alignment.align(prompt, prompt, mode)
    assert torch.equal(made.mapping, torch.eye(len(prompt.ids)))
    assert made.copied.eq(1).all()


@pytest.mark.parametrize("mode", ["auto", "replace"])
def test_words_of_several_tokens_are_aligned(clip, tokenize, alignment, mode):
    source = tokenize(clip, "a red star, on a plain background")
    target = tokenize(clip, "a (cyan:1.2) star, on a checkered background")
    made = alignment.align(source, target, mode)
    expected = torch.zeros(77, 77)
    # a red star , on a plain background E -> a cy an star , on a check ered background E
    moves = {0: [0], 1: [1], 2: [2, 3], 3: [4], 4: [5], 5: [6], 6: [7], 7: [8, 9], 8: [10], 9: [11]}
    for old, new in moves.items():
        expected[old, new] = 1 / len(new)
    expected[range(12, 77), range(12, 77)] = 1
    assert torch.equal(made.mapping, expected)
    assert made.copied.eq(1).all()
    assert made.summary == "red -> cyan; plain -> checkered"


@pytest.mark.parametrize("mode", ["auto", "refine"])
def test_added_words_keep_their_own_map(clip, tokenize, alignment, mode):
    source = tokenize(clip, "a young man standing in front of a building")
    target = tokenize(clip, "a young man standing in front of a building, smiling")
    made = alignment.align(source, target, mode)
    expected = torch.eye(77)
    expected[:, [10, 11, 12]] = 0
    expected[10, 12] = 1
    assert torch.equal(made.mapping, expected)
    assert [column for column, share in enumerate(made.copied) if share == 0] == [10, 11]
    assert made.summary == "added smiling (2 tokens)"


def test_prompts_of_unequal_chunks_are_aligned(clip, tokenize, alignment):
    source, target = tokenize(clip, SENTENCE), tokenize(clip, f"{SENTENCE} {LONG}")
    made = alignment.align(source, target, "auto")
    assert made.mapping.shape == (77, 154)
    assert torch.equal(made.mapping[1:13, 1:13], torch.eye(12))
    assert torch.equal(made.copied > 0, made.mapping.sum(0) > 0)
    back = alignment.align(target, source, "auto")
    assert back.copied.eq(1).all()
    assert torch.equal(back.mapping[[0, 77], 0], torch.ones(2))


# --- Embeddings -----------------------------------------------------------------------------------


def test_an_embedding_is_one_word_of_as_many_columns_as_vectors(
    make_clip, embeddings, tokenize, prompts, alignment
):
    folder = embeddings("moody", emb_params=torch.rand(3, 768))
    clip = make_clip(*TOKENIZERS["SD 1.x"], embedding_directory=folder)
    prompt = tokenize(clip, "a (embedding:moody, red:1.2) cat embedding:absent, here")
    assert [(word.text, word.columns, word.marks) for word in prompt.words] == [
        ("a", (1,), ()),
        ("embedding:moody,", (2, 3, 4), (5,)),
        ("red", (6,), ()),
        ("cat,", (7,), (8,)),
        ("here", (9,), ()),
    ]
    assert prompts.find(prompt, "embedding:moody") == (2, 3, 4)
    assert torch.equal(alignment.align(prompt, prompt, "refine").mapping, torch.eye(77))
    # Vectors are known by their value: refine finds them again.
    grown = tokenize(clip, "a fat embedding:moody cat")
    assert grown.ids[3:6] == prompt.ids[2:5]
    assert len({*grown.ids[3:6]}) == 3


def test_an_embedding_of_another_encoder_is_refused(make_clip, embeddings, tokenize):
    folder = embeddings("moody", emb_params=torch.rand(3, 768))
    clip = make_clip(*TOKENIZERS["SD 2.x"], embedding_directory=folder)
    with pytest.raises(ValueError, match="prompt names an embedding.*768 numbers.*1024"):
        tokenize(clip, "a embedding:moody cat")


def test_both_encoders_of_sdxl_must_agree(make_clip, embeddings, tokenize):
    both = {"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)}
    clip = make_clip(*TOKENIZERS["SDXL"], embedding_directory=embeddings("both", **both))
    assert words(tokenize(clip, "a embedding:both cat"))["cat"] == ((4,), ())
    embeddings("uneven", **{**both, "clip_g": torch.rand(3, 1280)})
    with pytest.raises(ValueError, match="4 tokens from 'l' and 5 from 'g'"):
        tokenize(clip, "a embedding:uneven cat")


def test_without_a_folder_of_embeddings_the_host_reads_plain_text(sd1, tokenize):
    assert words(tokenize(sd1, "a embedding:moody cat"))["embedding:moody"] == ((2, 3, 4, 5), ())


# --- Other encoders, and the model ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "found"),
    [
        ("comfy.text_encoders.sd3_clip", "SD3Tokenizer", r"SD3Tokenizer \(g, l, t5xxl\)"),
        ("comfy.text_encoders.flux", "FluxTokenizer", r"FluxTokenizer \(l, t5xxl\)"),
        ("comfy.text_encoders.pixart_t5", "PixArtTokenizer", r"PixArtTokenizer \(t5xxl\)"),
        ("comfy.text_encoders.qwen_image", "QwenImageTokenizer", "QwenImageTokenizer"),
    ],
)
def test_encoders_of_other_kinds_are_refused(make_clip, tokenize, module, name, found):
    with pytest.raises(
        ValueError, match=f"clip is no text encoder.*{found}.*SD 1.x, SD 2.x or SDXL"
    ):
        tokenize(make_clip(module, name), "a cat")


def test_a_checkpoint_without_a_text_encoder_is_refused(tokenize):
    with pytest.raises(ValueError, match="clip is no text encoder.*nothing"):
        tokenize(None, "a cat")


@pytest.mark.parametrize(
    ("before", "colours", "after"),
    [
        ("a big ", ("red", "cyan"), " star"),
        ("a plain (red:1.2) background, " * 20 + "a big ", ("red", "cyan"), " star"),
        ("大きな", ("赤", "青"), "い星"),
        ("黑色背景上的", ("红", "黄"), "色三角形"),
    ],
    ids=["short", "long", "Japanese", "Chinese"],
)
def test_the_columns_are_those_of_the_conditioning(
    every_token, tokenize, prompts, before, colours, after
):
    clip = every_token
    texts = [f"{before}{word}{after}" for word in colours]
    one, other = (clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in texts)
    assert one.shape[1] == len(tokenize(clip, texts[0]).ids)
    # The encoder is causal: the first column that differs is the word's own.
    differs = (one - other).abs().amax((0, 2)) > 1e-5
    assert int(differs.nonzero()[0]) == prompts.find(tokenize(clip, texts[1]), colours[1])[0]
