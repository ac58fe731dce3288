"""What proposes poses: one initialiser a file, and the searches behind them."""
