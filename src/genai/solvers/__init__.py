"""Pure functions of a callable: steps along an ordinary differential equation."""
