"""Measures the speed of training and decoding on this device, and the limits of the device.

bench_command: command-line entry point of `tinyllama bench`
bench_options: options of `bench` and their defaults by device and preset
bench_table: formats benchmark results as plain-text tables
ceilings: measures peak matrix-multiplication throughput and memory bandwidth of the device
decode_speed: measures single-sequence decoding latency and throughput with random weights
kernel_classes: classifies kernels by name and sums a step's time by class
kernel_trace: profiles a few training steps with PyTorch's profiler: kernel times and GPU idle time
run_bench: runs the training, decoding and ceiling benchmarks and collects their results
training_speed: measures training step time and memory on random tokens
"""
