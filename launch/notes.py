"""The notes from the first page to the last: the script that launch/notes.ipynb is made of.

    python launch/percent.py launch/notes.py

In jupytext's percent format; a test runs every cell, with smaller settings.
"""

# ruff: noqa: E402, I001  (a notebook imports where it first needs something)

# %% title [markdown]
# # From logits to a GPT: the notes, run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gptjax/gptjax/blob/main/launch/notes.ipynb)
#
# Every example of the notes, page by page, computed by the product's own code: shapes in
# comments, figures as they really are (some of the printed ones are misprints). It ends with a
# trained GPT and its writing. *Runtime → Run all* takes some four minutes on two CPU cores;
# a GPU or a TPU works unchanged.

# %% settings-text [markdown]
# ## Settings
#
# Leave them as they are for a first run.

# %% settings tags=["parameters"]
DATA = "tinyshakespeare"  # a corpus's name, or the path of a UTF-8 text file of your own
NAMES = "names"  # a list of names: a corpus's name, or the path of a file, one name a line
RUNGS = "bigram,embed,head,multihead,ffwd,blocks"  # of the ladder
LADDER_STEPS = 5000  # steps of each rung, as many as the lecture's
GPT_STEPS = 5000  # steps of the GPT at the end
GPT_FIELDS = []  # any field of its config, such as "--config.model.n_layer=6"
PROMPT = "ROMEO:"  # what the GPT goes on from
FOLDER = "runs/notes"  # where the runs live; a run that is there is not trained again
REPOSITORY = "https://github.com/gptjax/gptjax"

# %% setup-text [markdown]
# ## Set-up
#
# Fetches the code unless this notebook was opened inside it, and installs what is missing. The
# small examples below run here, on the CPU; training runs in processes of its own, which take
# the GPU or TPU where there is one (a TPU serves one process at a time).

# %% setup
import os
import subprocess
import sys
from pathlib import Path

environment = os.environ | {"GPTJAX_VENV": "none", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}


def run(*command):
    """Run a command and show its output as it comes."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with subprocess.Popen(command, env=environment, **pipe) as process:
        for line in process.stdout:
            print(line, end="")
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: the lines above say why")


def gptjax(verb, *arguments):
    """python -m gptjax.verb ..."""
    run(sys.executable, "-m", f"gptjax.{verb}", *arguments)


here = Path.cwd()
root = next((f for f in [here, *here.parents] if (f / "gptjax/train.py").exists()), here / "gptjax")
if not root.exists():
    run("git", "clone", "--depth=1", REPOSITORY, str(root))
os.chdir(root)
sys.path.insert(0, str(root))
run(sys.executable, "launch/install.py")

# %% imports
os.environ["JAX_PLATFORMS"] = "cpu"  # of this notebook; the runs have the machine's own

import jax
import jax.numpy as jnp
import numpy as np
from IPython.display import Image, display

np.set_printoptions(precision=4, suppress=True)

# %% page-1 [markdown]
# ## Page 1: logits
#
# Logits are raw scores, one per token of the vocabulary. Softmax turns them into probabilities:
# `softmax(z)[i] = exp(z[i]) / sum(exp(z))`. (The notes print .06 .004 .0007 .935 for the first
# example; those do not follow from its logits.)

# %% softmax


def softmax(z):
    """In float64, along the last axis; jax.nn.softmax is the same in float32."""
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


print(softmax(np.array([2.3, 0.1, -1.5, 4.0])))  # .1514 .0168 .0034 .8285
print(softmax(np.array([2.3, -1.2, 0.5, 4.7])))  # .0818 .0025 .0135 .9022

# %% temperature-text [markdown]
# Temperature divides the logits before softmax: above 1 flattens, below 1 sharpens. Top-k keeps
# the k best. In the product these are small rules over logits, `gptjax/samplers.py`.

# %% temperature
from gptjax import samplers

logits = jnp.array([[2.0, 1.0, 0.5, 3.0]])
seen = jnp.zeros(logits.shape, bool)
for temperature in (1.0, 2.0, 0.5):
    scaled = samplers.Temperature(temperature)(logits, seen)
    print(temperature, np.array(jax.nn.softmax(scaled)))
print("top 3", np.array(jax.nn.softmax(samplers.TopK(3)(logits, seen))))

# %% page-2 [markdown]
# ## Pages 2 and 3: inputs, targets, batches
#
# The target at each place is simply the next token: `y` is `x`, one step later. One row of 8
# tokens is 8 examples at once, with contexts of 1 to 8 tokens.

# %% batches
from gptjax import batches

data = np.array([18, 47, 56, 57, 58, 1, 15, 47, 58, 5, 6, 7])
rows = batches.stream_rows(data, window=8)
batch = batches.get_batches(rows, seed=1337, purpose="train", first_step=0, n=1, batch_size=4)
xb, yb = batch.x[0], batch.y[0]
print("input shape:", xb.shape, " target shape:", yb.shape)  # (4, 8) (4, 8)
for t in range(8):
    print(f"when input is {xb[0, : t + 1].tolist()} the target is {yb[0, t]}")

# %% page-4 [markdown]
# ## Page 4: the bigram table
#
# Row i holds the logits of what follows token i. Looking up `idx` (B, T) gives logits (B, T, C).
# The loss is the mean of `-ln softmax(logits)[target]`: 1.5770 for the table as the notes print it.

# %% bigram
from gptjax.losses import cross_entropy
from gptjax.models.bigram import BigramLanguageModel

table = np.array(
    [
        [0.1808, -0.0700, 0.3596, -0.9152],
        [0.6258, 0.0255, 0.9545, 0.0643],
        [0.3612, 1.1679, -1.3499, -0.5102],
        [0.2360, -0.2398, -0.9211, 1.5433],
    ],
    np.float32,
)
params = {"token_embedding_table": {"embedding": table}}
idx, targets = np.array([[0, 1, 2], [1, 2, 3]]), np.array([[1, 2, 3], [2, 3, 0]])
bigram = BigramLanguageModel(vocab_size=4)
logits = bigram.apply({"params": params}, idx)
print("logits", logits.shape)  # (2, 3, 4): no caller ever has to reshape them
p = jax.nn.softmax(logits)
nlls = -np.log(np.take_along_axis(np.array(p), targets[..., None], -1))[..., 0]
print("nlls", nlls.ravel())  # 1.4472 .9264 2.2168 .9264 2.2168 1.7285
nats, count = cross_entropy(logits, targets, np.ones(targets.shape))
print(f"loss {nats / count:.4f}")  # 1.5770

# %% worked-example [markdown]
# The worked example: a 5 x 5 table, asked about tokens 2 and 4.

# %% worked
table5 = np.array(
    [
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.2, 0.1, 0.4, 0.3, 0.6],
        [0.3, 0.4, 0.2, 0.1, 0.7],
        [0.4, 0.3, 0.1, 0.6, 0.2],
        [0.5, 0.6, 0.7, 0.2, 0.1],
    ]
)
print(softmax(table5[[2, 4]]))
# .1880 .2077 .1701 .1539 .2804 and .2111 .2333 .2578 .1564 .1415

# %% page-5 [markdown]
# ## Page 5: token and position embedding
#
# The table is split in two: a vector per token, a vector per place, and `lm_head`, which turns
# their sum into logits.

# %% embeddings
from gptjax.models.bigram import BigramEmbedLanguageModel

model5 = BigramEmbedLanguageModel(vocab_size=65, block_size=8, n_embd=4)
idx = np.array([[4, 10, 7], [3, 1, 0]])  # (B, T) = (2, 3)
variables = model5.init(jax.random.key(0), idx)
for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    print(f"{jax.tree_util.keystr(path):<50} {leaf.shape}")
print("logits", model5.apply(variables, idx).shape)  # (2, 3, 65)

# %% page-6 [markdown]
# ## Page 6: generate
#
# Predict, keep the last place, softmax, draw, append; again.

# %% generate
idx, key = np.array([[0, 1, 2], [1, 2, 3]]), jax.random.key(1337)
for step in range(2):
    logits = bigram.apply({"params": params}, idx)  # (2, T, 4)
    last = logits[:, -1, :]  # (2, 4)
    print("probabilities", np.array(jax.nn.softmax(last)), sep="\n")
    idx_next = jax.random.categorical(jax.random.fold_in(key, step), last)  # (2,)
    idx = np.concatenate([idx, idx_next[:, None]], axis=1)
print(idx.shape, idx.tolist())  # (2, 5)

# %% page-7 [markdown]
# ## Page 7: training
#
# One example first: logits of 8 tokens, the right one is token 4. Its probability is .3942, the
# loss -ln .3942 = .9310.

# %% nll
p = softmax(np.array([0.2, 1.1, -0.7, 0.4, 2.3, -0.5, 1.8, 0.9]))
print(p, f"loss {-np.log(p[4]):.4f}")

# %% train-text [markdown]
# Then the real thing: the table of page 4, trained by gradient on the text (`gptjax/steps.py` has
# the loop's body). Behind it the same table filled by counting (page 4, section 9), in no time:
# what the trained one approaches.

# %% train
known = not Path(DATA).exists()
data = f"--config.data.{'name' if known else 'path'}={DATA}"
steps = [f"--config.train.steps={LADDER_STEPS}", f"--config.train.eval_every={LADDER_STEPS // 5}"]
table = f"--workdir={FOLDER}/ladder/bigram"  # the ladder below finds it there
gptjax("train", "--config=configs/ladder.py:bigram", data, *steps, table)
gptjax("train", "--config=configs/count_bigram.py", data, f"--workdir={FOLDER}/counted")

# %% page-8 [markdown]
# ## Page 8: estimate_loss
#
# The loss of one batch is noise; the mean of many is an estimate. `gptjax.evaluate` goes further
# and predicts every token of the split once.

# %% estimate
print(
    np.mean([2.20, 2.10, 2.15, 2.05, 2.12]), np.mean([2.50, 2.40, 2.45, 2.47, 2.43])
)  # 2.124 2.45
gptjax("evaluate", f"--workdir={FOLDER}/counted")

# %% trick [markdown]
# ## The mathematical trick in self-attention
#
# Three equal ways to let every token average its past: a loop, a product with a lower-triangular
# matrix, a masked softmax of zeros. The third one is attention without opinions.

# %% averaging
from gptjax.models import averaging

x = jax.random.normal(jax.random.key(0), (4, 8, 2))  # (B, T, C)
ways = [averaging.average_loop, averaging.average_matmul, averaging.average_softmax]
one, two, three = (way(x) for way in ways)
print(one.shape, bool(jnp.allclose(one, two, atol=1e-6)), bool(jnp.allclose(one, three, atol=1e-6)))

# %% page-9 [markdown]
# ## Page 9: a head
#
# `wei = q @ k.T / sqrt(head_size)`, future masked with -inf, softmax, `wei @ v`.

# %% scores
q = jnp.array([[1.0, 0.0], [0.0, 1.0]])
k = jnp.array([[0.5, 0.5], [0.5, -0.5]])
wei = q @ k.T * 2**-0.5
print(np.array(wei))  # .3536 .3536 / .3536 -.3536
tril = jnp.tril(jnp.ones((2, 2), bool))
print(np.array(jax.nn.softmax(jnp.where(tril, wei, -jnp.inf))))  # the first token sees itself alone

# %% heads
from gptjax.models.gpt import Head, MultiHeadAttention

x = jax.random.normal(jax.random.key(1), (2, 4, 64))  # (B, T, C)
head = Head(head_size=16, block_size=8)
out, _ = head.apply(head.init(jax.random.key(0), x), x)
print("one head", out.shape)  # (2, 4, 16)
sa = MultiHeadAttention(n_head=4, head_size=16, block_size=8)
out, _ = sa.apply(sa.init(jax.random.key(0), x), x)
print("four heads, concatenated and projected", out.shape)  # (2, 4, 64)

# %% dropout-text [markdown]
# Dropout zeroes a share p of the values while training and scales the others by 1 / (1 - p):
# at p = .25, .5 becomes .6667, .2 becomes .2667, .7 becomes .9333.

# %% dropout
from flax import linen as nn

drop = nn.Dropout(0.25, deterministic=False)
for seed in range(3):
    print(
        np.array(drop.apply({}, jnp.array([0.5, 0.2, 0.7]), rngs={"dropout": jax.random.key(seed)}))
    )

# %% page-10 [markdown]
# ## Page 10: blocks, and the whole model
#
# Communication, then computation, each added to what was there:
# `x = x + sa(ln1(x))`, `x = x + ffwd(ln2(x))`. Four of them, two tables, a LayerNorm and a head
# are the notes' small GPT of 209,729 parameters.

# %% gpt
from gptjax import model_table, models

small = models.ModelConfig("gpt", block_size=32, n_layer=4, n_head=4, n_embd=64)
gpt = models.build(small, vocab_size=65)
shapes = jax.eval_shape(gpt.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
rows = model_table.model_rows(shapes)
for name, inside, each, total in model_table.fold(rows):
    print(f"{name:<26} {inside:<28} {each:>10} {total:>10}")
print(sum(n for *_, n in rows), "parameters")

# %% ladder-text [markdown]
# ## The ladder
#
# Every idea so far as a model of its own, trained and compared: what did each one buy? The gain
# stands with its standard error; all runs were asked about the same text.

# %% ladder
rungs = [f"--rungs={RUNGS}", f"--steps={LADDER_STEPS}", f"--data={DATA}"]
gptjax("compare", "--ladder", *rungs, f"--out={FOLDER}/ladder")

# %% ladder-picture
display(Image(filename=f"{FOLDER}/ladder/compare.png"))

# %% names-text [markdown]
# ## The slides: names
#
# Three characters in, the next one out, by a multi-layer perceptron. Each character is a point of
# a plane (a 2-dimensional embedding), and training moves the points: vowels find each other.

# %% names
items = not Path(NAMES).exists()
names = [f"--config.data.name={NAMES}"] if items else [f"--config.data.path={NAMES}"]
names += ["--config.data.kind=items", "--config.model.n_embd=2"]
mlp, every = f"--workdir={FOLDER}/names", f"--config.train.steps={2 * LADDER_STEPS}"
gptjax("train", "--config=configs/mlp_names.py", *names, every, "--config.train.eval_every=0", mlp)

# %% names-look
gptjax("look", mlp, "next", "a b i")  # the 27 classes behind a, b, i
gptjax("look", mlp, "next", "a b i", "--every_position", "--top=3")  # all places predict at once
gptjax("look", mlp, "plane")
display(Image(filename=f"{FOLDER}/names/plane.png"))

# %% train-gpt-text [markdown]
# ## The GPT
#
# Now the small GPT of page 10 itself. Watch the samples turn from noise into words.

# %% train-gpt
steps = [f"--config.train.steps={GPT_STEPS}", f"--config.train.eval_every={GPT_STEPS // 5}"]
faster = ["--config.optim.schedule=cosine", "--config.optim.learning_rate=2e-3"]
gpt_run = f"--workdir={FOLDER}/gpt"
gptjax("train", "--config=configs/ladder.py:gpt", data, *steps, *faster, *GPT_FIELDS, gpt_run)

# %% gpt-picture
display(Image(filename=f"{FOLDER}/gpt/loss.png"))

# %% sample
gptjax("sample", gpt_run, f"--prompt={PROMPT}", "--max_new_tokens=400", "--temperature=0.8")

# %% end [markdown]
# ## From here
#
# `configs/gpt.py` is the next size, for a GPU or some minutes of a CPU; `launch/colab.ipynb`
# trains it. The table "From the notes to the code" in the README says where each idea of these
# pages lives.
