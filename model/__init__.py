"""What FashionBERT is: data, network, training, evaluation, export, and the engine."""
