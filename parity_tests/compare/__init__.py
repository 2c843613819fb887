"""One net through several engines, held blob by blob against float64: `seenet parity`."""
