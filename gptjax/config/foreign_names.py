"""Names that people bring along from other trainers, and what does it here.

In: a name that nobody here knows. Out: the field, flag or argument that it has here, why there is
none, or else the nearest name. The table holds nanoGPT's train.py and sample.py, makemore.py, the
lecture's gpt.py, and the most common of Hugging Face's.
"""

from collections.abc import Callable, Iterable

from gptjax.errors import did_you_mean, last_part

# Names; what it is here, the first that a command has of several; what to mind.
TABLE = (
    # How long, how much, how fast.
    ("max_iters max_steps num_steps num_iters total_steps n_steps iterations", "train.steps", ""),
    (
        "epochs num_epochs n_epochs max_epochs num_train_epochs",
        "train.steps",
        "an epoch has as many steps as the text has tokens, divided by train.batch_size times "
        "model.block_size",
    ),
    ("per_device_train_batch_size train_batch_size micro_batch_size bs", "train.batch_size", ""),
    (
        "gradient_accumulation_steps grad_accum accumulation_steps",
        "train.accumulate",
        "train.batch_size counts the rows of all parts together",
    ),
    ("lr max_lr base_lr", "optim.learning_rate", ""),
    (
        "min_lr lr_min",
        "optim.final_fraction",
        "as a fraction of optim.learning_rate: min_lr / learning_rate",
    ),
    ("warmup_iters num_warmup_steps warmup", "optim.warmup_steps", ""),
    ("warmup_ratio", "optim.warmup_steps", "in steps: the ratio times train.steps"),
    ("lr_decay_iters", "", "the schedule ends at train.steps"),
    (
        "decay_lr lr_scheduler_type lr_scheduler scheduler lr_schedule",
        "optim.schedule",
        "cosine, constant or step",
    ),
    ("grad_clip max_grad_norm gradient_clip_val clip_grad", "optim.clip_norm", "0 is off"),
    ("optimizer optimizer_type optim_name", "optim.name", ""),
    ("betas adam_beta1 beta_1", "optim.beta1", "and optim.beta2"),
    ("adam_beta2 beta_2", "optim.beta2", ""),
    ("adam_epsilon epsilon adam_eps", "optim.eps", ""),
    ("wd l2", "optim.weight_decay", ""),
    ("momentum", "optim.beta1", "of adamw; sgd has none"),
    # The model.
    ("model_type type arch architecture", "model.kind", ""),
    (
        "n_ctx n_positions ctx_len context_length context_size seq_len seq_length max_seq_len "
        "max_seq_length sequence_length max_position_embeddings",
        "model.block_size",
        "",
    ),
    ("num_layers num_hidden_layers depth", "model.n_layer", ""),
    ("num_heads num_attention_heads heads", "model.n_head", ""),
    ("hidden_size d_model dim embed_dim embedding_dim emb_dim emb_size", "model.n_embd", ""),
    ("n_embd2 hidden_dim n_hid", "model.n_hidden", "of the mlp; the gpt's is 4 times model.n_embd"),
    ("head_size head_dim", "", "a head is model.n_embd / model.n_head wide"),
    ("ffn_dim d_ff intermediate_size n_inner", "", "the feed-forward is 4 times model.n_embd wide"),
    ("dropout_rate p_drop drop_rate resid_pdrop attn_pdrop embd_pdrop", "model.dropout", ""),
    (
        "act_fn hidden_act activation_function nonlinearity",
        "model.activation",
        "relu, gelu or gelu_tanh",
    ),
    ("tie_weights weight_tying tie_word_embeddings tie_embeddings", "model.tie_lm_head", ""),
    (
        "n_vocab vocabulary_size padded_vocab_size",
        "tokenizer.vocab_size",
        "of tokenizer.kind=bpe; the others count it, and tokenizer.min_count drops rare words",
    ),
    (
        "bias",
        "model.qkv_bias",
        "as in the notes, queries, keys and values have none; all other layers have one",
    ),
    ("use_rope rope rotary", "", "positions are learnt, as in the notes"),
    # The text.
    ("dataset dataset_name data_name corpus", "data.name", "your own file goes to data.path"),
    (
        "input_file train_file data_path data_file text_path dataset_path data_dir",
        "data.path",
        "one UTF-8 text file",
    ),
    (
        "tokenizer_name tokenizer_type tokenizer encoding",
        "tokenizer.kind",
        "char, word, byte or bpe",
    ),
    ("num_workers dataloader_num_workers", "", "batches are gathered while the device computes"),
    # Watching, saving, continuing.
    ("eval_interval eval_steps val_interval eval_freq", "train.eval_every", ""),
    ("eval_batches num_eval_batches", "train.eval_iters", ""),
    ("log_interval logging_steps log_every print_every", "", "metrics.jsonl has every tenth step"),
    ("eval_only", "", "python -m gptjax.evaluate measures a trained run"),
    ("sample_only", "", "python -m gptjax.sample writes with a trained run"),
    ("save_steps save_interval save_every checkpoint_interval", "checkpoint.every_steps", ""),
    ("save_total_limit max_to_keep", "checkpoint.keep_last", ""),
    ("keep_period", "checkpoint.keep_every", ""),
    ("always_save_checkpoint", "", "each evaluation saves, and the best is kept"),
    (
        "out_dir output_dir work_dir save_dir log_dir logdir run_dir model_dir ckpt_dir",
        "workdir",
        "",
    ),
    ("run_name wandb_run_name experiment_name", "name", ""),
    (
        "resume resume_from resume_from_checkpoint",
        "",
        "training goes on by itself in the folder of a run, --workdir; init_from begins a new run "
        "with the parameters of another",
    ),
    # Fine-tuning, LoRA and peft's names.
    (
        "pretrained pretrained_model pretrained_model_name_or_path model_name_or_path base_model "
        "finetune finetune_from init_weights load_from load_weights",
        "init_from train.init_from",
        "the folder of a run",
    ),
    ("lora_r r rank use_lora", "model.lora_rank", ""),
    ("target_modules lora_target_modules lora_modules", "model.lora_targets", ""),
    ("lora_dropout", "model.dropout", "there is none of the adapters alone"),
    (
        "freeze frozen freeze_layers freeze_base unfreeze trainable_layers trainable_params "
        "modules_to_save layers_to_transform",
        "train.trainable",
        "what it names learns, and the rest is frozen",
    ),
    ("merge_and_unload merge_lora merge_adapters", "", "a run is opened with LoRA's added in"),
    ("ckpt ckpt_path checkpoint_path", "checkpoint", "best, last or a step"),
    (
        "wandb wandb_log wandb_project report_to",
        "",
        "metrics.jsonl in the folder of the run has every figure, and TensorBoard's files are "
        "written where tensorboardX is installed",
    ),
    # The machine.
    (
        "device backend use_cuda cuda gpu no_cuda use_cpu accelerator",
        "",
        "JAX takes the fastest device; the variable JAX_PLATFORMS=cpu chooses the CPU",
    ),
    ("dtype precision mixed_precision fp16 bf16 amp", "model.compute_dtype", ""),
    ("compile torch_compile jit", "", "every step is compiled"),
    ("tensor_parallel_size tensor_parallel", "mesh.tensor", ""),
    ("fsdp_size zero_stage", "mesh.fsdp", "it cuts parameters, gradients and optimizer"),
    (
        "ddp world_size local_rank",
        "",
        "one process takes all devices of a machine; several are told --coordinator",
    ),
    (
        "gradient_checkpointing checkpoint_activations",
        "model.remat",
        "train.accumulate saves memory too: it does a batch in parts",
    ),
    ("random_seed manual_seed", "seed", ""),
    # Writing.
    ("start start_text prime context", "prompt sample.prompt", ""),
    (
        "max_length max_tokens max_gen_len length num_tokens_to_generate sample_len",
        "max_new_tokens sample.max_new_tokens",
        "the prompt is not counted",
    ),
    ("temp", "temperature sample.temperature", ""),
    ("num_return_sequences n_samples", "num_samples", ""),
    ("do_sample greedy", "temperature sample.temperature", "0 takes the likeliest token"),
    ("stop_sequences stop_strings eos_token eos_token_id", "stop", "a string that ends the text"),
    ("frequency_penalty presence_penalty rep_pen", "repetition_penalty", ""),
    ("streamer callback", "on_text stream", ""),
    ("num_beams beam_size", "", "texts are drawn token by token"),
)
ANSWERS = {name: (here.split(), mind) for names, here, mind in TABLE for name in names.split()}


def nearest(name: str, known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """``did_you_mean``, which knows the names of other trainers too.

    ``known``: what may be written where ``name`` was, as it is written there: "--workdir",
    "--config.train.steps", "train.steps".
    """
    known = list(known)
    here, mind = ANSWERS.get(last_part(name), (["no answer"], ""))
    written = {other.removeprefix("--").removeprefix("config."): other for other in known}
    found = [show(written[path]) for path in here if path in written]
    if found:
        return f" (here it is {': '.join(filter(None, [found[0], mind]))})"
    return did_you_mean(name, known, show) if here else f" (there is none: {mind})"
