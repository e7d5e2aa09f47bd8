"""Estimates of memory, time and cost before a run; does not import torch.

activations: estimates activation memory of the layers and the loss
communication: estimates bytes and seconds of communication along each parallel axis
cost: estimates time, memory, disk and price of a run, and lists the layouts that fit
device_file: reads user-defined device specifications from a TOML file
find_layouts: lists the possible parallel layouts with their memory and speed
memory: estimates memory of one device by category, for any layout of the four parallel axes
plan_advice: suggests changes when no layout fits
plan_table: formats a plan as plain-text tables
stage_sizes: parameter counts of each pipeline stage in a layout
step_time: estimates the time of one optimizer step by category, for any layout of the four parallel axes
"""
