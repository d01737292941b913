"""What a score of nothing looks like: intervals, reliability, planted truths, nuisances."""
