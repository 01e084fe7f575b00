"""Learn which queries need the expensive model, and prove what that saves."""
