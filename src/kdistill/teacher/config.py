"""Settings of the teacher and of its rationales. Imports neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdistill.config import ConfigModel


class TeacherTraining(ConfigModel):
    """How a teacher is trained on the literature (shared by every kind)."""

    steps: int = Field(default=600, ge=0, description="Optimiser steps; 0 keeps the model as it is.")
    batch_size: int = Field(default=16, ge=1, description="Sequences in a step.")
    sequence_length: int = Field(default=128, ge=16, description="Length of a packed training sequence, in tokens.")
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate of AdamW (cosine decay to zero).")
    warmup_steps: int = Field(default=30, ge=0, description="Steps of linear warm-up.")
    weight_decay: float = Field(default=0.01, ge=0, description="Decoupled weight decay.")
    bf16: bool = Field(default=False, description="Train under bfloat16 autocast.")
    save_steps: int = Field(default=200, ge=1, description="Steps between checkpoints.")
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and of the order of passages.")


class FromScratchTeacher(ConfigModel):
    """A small Llama with its own byte-level BPE, both trained on the literature alone."""

    kind: Literal["from_scratch"] = "from_scratch"
    vocab_size: int = Field(default=2000, ge=300, description="Entries of the byte-level BPE, special tokens included.")
    hidden_size: int = Field(default=144, ge=8, description="Width of the residual stream.")
    num_layers: int = Field(default=3, ge=1, description="Transformer blocks.")
    num_heads: int = Field(default=4, ge=1, description="Attention heads; divides hidden_size.")
    intermediate_size: int = Field(default=432, ge=8, description="Width of the gated feed-forward layer.")
    max_positions: int = Field(default=512, ge=32, description="Longest sequence, in tokens.")
    training: TeacherTraining = Field(default=TeacherTraining(), description="Training on the literature.")


class FullTeacher(ConfigModel):
    """Any causal LM of transformers, its pretraining continued on the literature with every weight."""

    kind: Literal["full"] = "full"
    model: str = Field(description="Hub name or local folder (safetensors) of a causal language model.")
    training: TeacherTraining = Field(default=TeacherTraining(learning_rate=2e-5), description="Continued pretraining.")


class LoraTeacher(ConfigModel):
    """Any causal LM of transformers with low-rank adapters (Hu et al. 2021, arXiv:2106.09685), merged when saved."""

    kind: Literal["lora"] = "lora"
    model: str = Field(description="Hub name or local folder (safetensors) of a causal language model.")
    rank: int = Field(default=16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(default=32.0, gt=0, description="Scale of the adapters.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the adapters.")
    training: TeacherTraining = Field(default=TeacherTraining(learning_rate=2e-4), description="Adapter training.")


TeacherConfig = Annotated[FromScratchTeacher | FullTeacher | LoraTeacher, Field(discriminator="kind")]


class ReadingConfig(ConfigModel):
    """How the teacher reads sentences that name no observation."""

    min_posterior: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="Least posterior of an inferred observation, where it cannot be calibrated.",
    )
    min_margin_nats: float = Field(default=1.0, ge=0, description="Least lead over the second candidate, in nats.")
    calibration_precision: float = Field(
        default=0.95,
        gt=0,
        lt=1,
        description="Precision that the posterior's threshold reaches on held-out literature cases.",
    )
    min_calibration_cases: int = Field(
        default=50, ge=1, description="Held-out literature cases below which min_posterior is used instead."
    )
    batch_size: int = Field(default=64, ge=1, description="Sentences scored at once.")


class EndpointConfig(ConfigModel):
    """An OpenAI-compatible server of a chat model: vLLM, SGLang, llama.cpp, a hosted one."""

    url: str = Field(default="http://127.0.0.1:8000/v1", pattern=r"^https?://", description="Up to and with /v1.")
    model: str = Field(description="The model's name, as the server knows it.")
    api_key_env: str | None = Field(default=None, description="Environment variable that holds the key, never the key.")
    allow_remote: bool = Field(default=False, description="Send report text to another machine.")
    response_format: Literal["json_schema", "json_object", "none"] = Field(
        default="json_schema", description="How the server is asked for JSON; whatever it does, answers are checked."
    )
    parallel: int = Field(default=8, ge=1, le=256, description="Requests at a time.")
    timeout_s: float = Field(default=120.0, gt=0, description="Longest wait for an answer.")
    max_retries: int = Field(default=6, ge=0, description="Further attempts when it is busy or away, pauses growing.")


class RationalesConfig(ConfigModel):
    """How rationales are written, verified and turned into targets."""

    writer: Literal["select", "generate", "endpoint"] = Field(
        default="select",
        description="select: literature sentences ranked by the LM's likelihood; generate: the LM writes; endpoint: a "
        "chat model behind HTTP writes, and the teacher reads reports and scores tokens.",
    )
    endpoint: EndpointConfig | None = Field(default=None, description="Where the endpoint writer asks.")
    reading: ReadingConfig = Field(default=ReadingConfig(), description="Reading of unnamed signs.")
    retrieval_top: int = Field(default=48, ge=1, description="Passages retrieved for an entry.")
    max_sentence_words: int = Field(default=20, ge=4, description="Longest literature sentence taken into a rationale.")
    mechanism: bool = Field(default=True, description="Add a sentence on the mechanism to present observations.")
    max_attempts: int = Field(
        default=3, ge=1, description="Attempts of the generate writer before an entry is rejected."
    )
    max_new_tokens: int = Field(
        default=48, ge=8, description="Longest sentence that the generate writer may write, in tokens."
    )
    temperature: float = Field(
        default=0.7, gt=0, description="Sampling temperature of attempts after the first (greedy) one."
    )
    top_k: int = Field(default=16, ge=1, description="Token log-probabilities kept at a position.")
    target_batch_size: int = Field(default=32, ge=1, description="Rationales scored at once.")
    embed_batch_size: int = Field(default=64, ge=1, description="Statements embedded at once.")
    max_prompt_tokens: int = Field(
        default=192, ge=16, description="Longest privileged prompt, in tokens; cut on the left."
    )
    seed: int = Field(default=0, ge=0, description="Seed of sampling in the generate writer.")

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> RationalesConfig:
        if self.writer == "endpoint" and self.endpoint is None:
            raise ValueError("writer is endpoint, and rationales.endpoint.model is not given")
        return self
