"""Programs that use bezel as a researcher would."""
