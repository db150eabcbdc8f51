"""What a sweep costs: FLOPs, throughput, worker scaling."""
