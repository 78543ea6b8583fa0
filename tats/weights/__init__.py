"""Files of tensors: reading them safely, fitting them into models, finding them by name."""
