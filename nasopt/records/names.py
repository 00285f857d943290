"""Names of what nasopt stores in an Optuna study beside parameters and values."""

from __future__ import annotations

# Study user attributes.
CONFIG = "nasopt:config"

ID = "nasopt:id"
"""Random text that the study's artifact folder names, too."""

CREATOR = "nasopt:creator"
"""The process that created the study: one without a configuration is half made, or its creator is still at work."""

ARTIFACTS = "nasopt:artifacts"
"""The folder that holds the study's own; if it is relative, to the folder of the SQLite file."""

FOLDER = "nasopt:folder"
"""Name of the study's own folder, where that is not the configuration's name."""

DATA = "nasopt:data"
"""Content hashes of the local data and model."""

BASE = "nasopt:base"
"""Number of the base trial."""

TFIDF = "nasopt:tfidf"
"""What TF-IDF and a linear model reach: `{"quality": ..., "metric": ..., "seconds": ...}`."""

REFERENCE_POINT = "nasopt:reference_point"
"""The hypervolume's reference point, in the units of the objectives."""

CONFIRMED = "confirmed:"
"""With a trial's number: its latencies, measured, where its values were looked up."""

# Trial user attributes.
CHECKPOINT = "checkpoint"

CONTROL = "control"
"""What a control is, in a word: a trial without parameters that the search is compared with."""

CONTROL_DEPTH = "control_depth"

CONTROL_RECIPE = "control_recipe"
"""What is needed to make a control: equal recipes are the same one."""

ARCHITECTURE = "architecture"
"""The candidate's shape in a few words."""

EXHAUSTED = "exhausted"

FAILURE = "failure"

INTERRUPTED = "interrupted"

IS_BASE = "base"

LATENCY = "latency"

DEVICE_CHANGE = "device_change"
"""From what device to what other one a study had come, as the user accepted."""

QUALITY_DETAILS = "quality_details"
"""What a quality is made of, by name: the tasks of a benchmark, a signature."""

MEMORY = "memory"
"""`{"weights_mb": ..., "peak_mb": ..., "device": ...}`, whichever of them is the objective."""

PARENT = "parent"

PRECISION = "precision"

PARAMETERS = "parameters"

FLOPS = "flops"

TRAINING_RESULT = "training_result"

FINETUNE_EPOCHS = "finetune_epochs"

DISTILL_EPOCHS = "distill_epochs"

SEARCH_EPOCHS = "search_epochs"

TRAINING_BUDGET = "training_budget"
"""Examples times forward-backward passes behind the weights, each weighted by its share of the base model's FLOPs."""

REJECTED = "rejected"
"""Why a candidate was not built: it breaks a constraint that needs no training to be known."""

REPEATS = "repeats"
"""Number of the trial whose work this one would have done again; its values are that one's."""

RETRY_OF = "retry_of"

WORKER = "worker"

PURPOSE = (IS_BASE, CONTROL, CONTROL_RECIPE, CONTROL_DEPTH)
"""What a trial is for, if it is not the search: who tries it again must say so, too."""

REFERENCE_MARGIN = 1.1
"""The hypervolume's reference point lies this factor beyond the base model's latency and memory."""

# Trial system attributes, which samplers write before a trial begins.
PROPOSAL = "nasopt:proposal"
"""`{"parent": int | None, "params": {...}}`: everything the sampler proposed, at once."""

SAMPLER_EXHAUSTED = "nasopt:exhausted"
"""The sampler found no child left to propose: the trial repeats a known one."""

SAMPLER_SEED = "nasopt:seed"

SAMPLER_WORKER = "nasopt:worker"
"""The process that asked for the trial; the user attribute `worker` is the one that runs it."""

FIXED_PARAMS = "fixed_params"
"""Optuna's own name for what `enqueue_trial` asks for."""
