// Runs before the first paint, which a module would not, so that the page never flashes in the other theme.
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
