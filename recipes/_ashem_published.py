"""What the original published of its early-exit run.

Random seed 42, the raw files of WikiText-2 (69,830 words), from the repository
rato-tokyo/hrm, commit b02dd4b.
"""

PHASE1 = {
    "train_ppl": [3208.8367, 688.4413, 424.4466, 298.5926],
    "val_ppl": [1155.4391, 995.6865, 986.4297, 1048.5312],
}
PHASE2 = {
    "train_ppl": [2934.9146, 1541.0128, 1175.0933, 987.6181, 870.6470]
    + [786.4368, 720.2858, 665.4617, 618.4207, 577.0879],
    "val_ppl": [987.12, 883.26, 844.55, 832.64, 829.80]
    + [829.89, 829.78, 830.82, 832.58, 834.16],
    "hard_ppl": [1797.55, 1274.81, 1032.28, 893.20, 798.39]
    + [726.42, 668.08, 618.80, 575.97, 538.03],
}
RESULTS = {
    "phase1_acc": 16.03,
    "phase1_ppl": 986.43,
    "phase1_hard_ppl": 2763.69,
    "num_hard_examples": 32_768,
    "phase2_hard_ppl": 668.08,
    "two_stage_acc": 15.77,
    "two_stage_ppl": 829.78,
    "hard_ppl_improvement": 2095.60,
    "shallow_ratio": 0.704,
    "compute_cost": 0.6482,
}
VOCABULARY, THRESHOLD = 69_830, 0.1499
