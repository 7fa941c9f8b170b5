"""What a job costs, before it is paid: of training or using a model, of tokenizing."""
