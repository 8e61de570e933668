"""Loaded models, from a name: conversion on first use, choice of device, batches, long clips."""
