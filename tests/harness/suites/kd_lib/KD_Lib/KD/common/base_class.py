import os
from copy import deepcopy

import torch
from torch import nn


class BaseClass:
    def __init__(
        self,
        teacher_model,
        student_model,
        train_loader,
        val_loader,
        optimizer_teacher,
        optimizer_student,
        loss_fn=None,
        temp=20.0,
        distil_weight=0.5,
        device="cpu",
        log=False,
        logdir="./Experiments",
    ):
        self.train_loader, self.val_loader = train_loader, val_loader
        self.optimizer_teacher, self.optimizer_student = optimizer_teacher, optimizer_student
        self.temp, self.distil_weight = temp, distil_weight
        self.log, self.logdir = log, logdir
        self.device = torch.device("cuda" if device == "cuda" and torch.cuda.is_available() else "cpu")
        self.teacher_model = teacher_model.to(self.device)
        self.student_model = student_model.to(self.device)
        self.loss_fn = (loss_fn or nn.KLDivLoss()).to(self.device)

    def train_teacher(self, epochs=20, plot_losses=True, save_model=True, save_model_pth="./models/teacher.pt"):
        self.teacher_model.train()
        for _ in range(epochs):
            for data, label in self.train_loader:
                loss = nn.functional.cross_entropy(self.teacher_model(data.to(self.device)), label.to(self.device))
                self.optimizer_teacher.zero_grad()
                loss.backward()
                self.optimizer_teacher.step()
            self.evaluate(teacher=True)

    def _train_student(self, epochs=10, plot_losses=True, save_model=True, save_model_pth="./models/student.pt"):
        self.teacher_model.eval()
        self.student_model.train()
        rows = len(self.train_loader.dataset)
        best = 0.0
        self.best_student_model_weights = deepcopy(self.student_model.state_dict())
        os.makedirs(os.path.dirname(save_model_pth), exist_ok=True)
        for epoch in range(epochs):
            total, correct = 0.0, 0
            for data, label in self.train_loader:
                data, label = data.to(self.device), label.to(self.device)
                student_out = self.student_model(data)
                teacher_out = self.teacher_model(data)
                loss = self.calculate_kd_loss(student_out, teacher_out, label)
                if isinstance(student_out, tuple):
                    student_out = student_out[0]
                correct += (student_out.argmax(dim=1) == label).sum().item()
                self.optimizer_student.zero_grad()
                loss.backward()
                self.optimizer_student.step()
                total += loss.item()
            _, accuracy = self._evaluate_model(self.student_model, verbose=True)
            if accuracy > best:
                best = accuracy
                self.best_student_model_weights = deepcopy(self.student_model.state_dict())
            print(f"Epoch: {epoch + 1}, Loss: {total}, Accuracy: {correct / rows}")
        self.student_model.load_state_dict(self.best_student_model_weights)
        if save_model:
            torch.save(self.student_model.state_dict(), save_model_pth)

    def train_student(self, epochs=10, plot_losses=True, save_model=True, save_model_pth="./models/student.pt"):
        self._train_student(epochs, plot_losses, save_model, save_model_pth)

    def calculate_kd_loss(self, y_pred_student, y_pred_teacher, y_true):
        raise NotImplementedError

    def _evaluate_model(self, model, verbose=True):
        model.eval()
        correct, outputs = 0, []
        with torch.no_grad():
            for data, target in self.val_loader:
                output = model(data.to(self.device))
                if isinstance(output, tuple):
                    output = output[0]
                outputs.append(output)
                correct += (output.argmax(dim=1) == target.to(self.device)).sum().item()
        accuracy = correct / len(self.val_loader.dataset)
        if verbose:
            print(f"Validation Accuracy: {accuracy}")
        return outputs, accuracy

    def evaluate(self, teacher=False):
        model = deepcopy(self.teacher_model if teacher else self.student_model).to(self.device)
        return self._evaluate_model(model)[1]

    def get_parameters(self):
        for name, model in (("teacher", self.teacher_model), ("student", self.student_model)):
            count = sum(weight.numel() for weight in model.parameters())
            print(f"Total parameters for the {name} network are: {count}")
