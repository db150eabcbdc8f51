"""Estimates what a sweep costs: FLOPs, throughput, worker scaling."""
