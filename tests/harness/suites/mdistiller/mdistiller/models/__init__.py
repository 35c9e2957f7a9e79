cifar_model_dict = {}
