package main

type benchCmd struct{}

func (c *benchCmd) Run(r *run) error { return nil }
