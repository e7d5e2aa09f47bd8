"""Estimates of memory, time and cost before a run; does not import torch.

activations: bytes of what the forward pass leaves for the backward pass, and of what the loss and the layer at work
communication: bytes and seconds of what the ranks send each other, axis by axis
cost: what a run will need before it is begun: time, memory of each device, disk, money, and the layouts that fit
device_file: devices of the user's own: a TOML file with one table for each kind, in full or as what differs from a
find_layouts: every layout of so many devices, with what it needs and how fast it is
memory: bytes that one device needs, by part, in any layout of the four axes
plan_advice: what to change when no layout fits: found by planning again with the change made
plan_table: A plan as people read it: figures, the parts of memory and of a step, the layouts that fit
stage_sizes: which part of the network each rank of a layout holds, counted in parameters
step_time: seconds of one optimizer update, by part, in any layout of the four parallel
"""
