"""Programs that use holdfast as an application would."""
