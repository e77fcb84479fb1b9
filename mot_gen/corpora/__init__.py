"""Corpora before training: conversion from other formats, validation, statistics."""
