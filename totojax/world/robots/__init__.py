"""Robots in a control loop: two arms, two tasks, their cameras and their experts.

`envs.Envs` steps many environments in processes of their own; `env.Env` is one,
with gymnasium's interface, in this process; `experts.expert` solves each task from
its state. Physics and pixels are MuJoCo's (the `world` extra). `suite` has robosuite's
tasks, in a Python of its own.
"""
