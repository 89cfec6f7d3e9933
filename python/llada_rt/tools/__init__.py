"""What works on models beside serving them: inspect, convert, verify, merge an adapter, lm-evaluation-harness."""
