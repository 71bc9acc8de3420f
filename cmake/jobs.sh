#!/usr/bin/env bash
# How many compilers may run at once: one per core, and 2 GiB of free memory for each.
cores=$(nproc)
by_memory=$(awk '/^MemAvailable:/ {print int($2 / 2097152)}' /proc/meminfo)
jobs=$((by_memory < cores ? by_memory : cores))
echo $((jobs > 0 ? jobs : 1))
