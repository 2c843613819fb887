"""What `caffe train` does: solvers, rates, the loop, its log and its snapshots."""
