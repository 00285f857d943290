"""Names of the attributes that nasopt stores in an Optuna study beside parameters and values."""

from __future__ import annotations

# Study user attributes.
CONFIG = "nasopt:config"

ID = "nasopt:id"
"""Random text that the study's artifact folder names, too."""

CREATOR = "nasopt:creator"
"""The process that created the study. A study without a configuration is half made, or its creator is at work."""

ARTIFACTS = "nasopt:artifacts"
"""The folder that holds the study's own folder; a relative one starts from the folder of the SQLite file."""

FOLDER = "nasopt:folder"
"""Name of the study's own folder, where that is not the configuration's name."""

DATA = "nasopt:data"
"""Content hashes of the local data and model."""

BASE = "nasopt:base"
"""Number of the base trial."""

TFIDF = "nasopt:tfidf"
"""The result of TF-IDF and a linear model: `{"quality": ..., "metric": ..., "seconds": ...}`."""

REFERENCE_POINT = "nasopt:reference_point"
"""The hypervolume's reference point, in the units of the objectives."""

LADDER = "ladder"
"""Parameters of the sub-networks that a search starts with, the largest first; a method's own attribute."""

GUIDANCE = "guidance"
"""Expected losses and times of the numbers of units of every block; a method's own attribute."""

PAGE = "nasopt:page"
"""What a study's page in optuna-dashboard was last drawn from: `ended` trials; and the version of our `note` there."""

CONFIRMED = "confirmed:"
"""Prefix of a trial's number: the trial's latencies as measured, where its values were looked up."""

# Trial user attributes.
CHECKPOINT = "checkpoint"

CONTROL = "control"
"""A control's kind, in a word. A control is a trial without parameters that the search is compared with."""

CONTROL_DEPTH = "control_depth"

CONTROL_RECIPE = "control_recipe"
"""The data that a control is made from; equal recipes make the same control."""

ARCHITECTURE = "architecture"
"""The candidate's shape in a few words."""

EXHAUSTED = "exhausted"

FAILURE = "failure"

INTERRUPTED = "interrupted"

DIED = "died"
"""Whether the trial's process ended without a word while it ran."""

IS_BASE = "base"

LATENCY = "latency"

DEVICE_CHANGE = "device_change"
"""The change of device that the user accepted, in words: from one device to another."""

QUALITY_DETAILS = "quality_details"
"""The parts of a quality, by name: the tasks of a benchmark, a signature."""

QUALITY_BY_DIMENSION = "quality_by_dimension"
"""The quality of vectors that are cut to their first entries, by the number of these."""

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
"""The reason why a candidate was not built: it breaks a constraint that can be checked without training."""

PROVISIONAL = "provisional"
"""Whether the weights are a slice of a network trained for many candidates, and not healed."""

SCREENED = "screened"
"""The reason why a provisional candidate was given up on a part of the validation split."""

REPEATS = "repeats"
"""Number of the trial whose work this one would have done again; its values are that one's."""

RETRY_OF = "retry_of"

WORKER = "worker"

PURPOSE = (IS_BASE, CONTROL, CONTROL_RECIPE, CONTROL_DEPTH)
"""The attributes of a trial that is not part of the search; a retry of it must have them, too."""

REFERENCE_MARGIN = 1.1
"""The hypervolume's reference point lies this factor beyond the base model's latency and memory."""

# Trial system attributes, which samplers write before a trial begins.
PROPOSAL = "nasopt:proposal"
"""`{"parent": int | None, "params": {...}}`: everything the sampler proposed, at once."""

SAMPLER_EXHAUSTED = "nasopt:exhausted"
"""The sampler found no child left to propose: the trial repeats a known one."""

SAMPLER_SEED = "nasopt:seed"

SAMPLER_WORKER = "nasopt:worker"
"""The process that asked for the trial; the user attribute `worker` names the one that runs it."""

FIXED_PARAMS = "fixed_params"
"""Optuna's own name for the parameters that `enqueue_trial` asks for."""
