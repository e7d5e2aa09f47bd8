"""Speed of training and decoding on this device, beside the device's own limits.

bench_command: `tinyllama bench` as the command line has it
bench_options: what `bench` is asked to measure
bench_table: the figures of a bench as people read them: plain text tables
ceilings: what the device can do at most, measured: one large product again and again, one large copy
decode_speed: how fast one sequence goes on, with random weights: speed does not depend on them
kernel_classes: what kind of work a kernel does, told by its name; and a step's time by kind
kernel_trace: A few steps under PyTorch's profiler: which kernels ran, how long, and how long none did
run_bench: `tinyllama bench`: training, decoding and the device's ceilings, in this order, as one set of figures
training_speed: steps of training on random tokens, timed as the trainer takes them, and the memory that they hold
"""
